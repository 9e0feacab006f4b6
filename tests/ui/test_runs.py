from __future__ import annotations

import json
import re

from playwright.sync_api import expect

OFFLINE = ("net::ERR_", "the server responded with a status of 503")


def shown_rows(page) -> list[list[str]]:
    """The table of numbers, oldest step first: step and loss."""
    table = page.get_by_role("table", name="Numbers by step")
    expect(table).to_be_visible()
    rows = table.locator("tbody tr").all()
    return [row.locator("th, td").all_inner_texts()[:2] for row in reversed(rows)]


def n_points(page, chart: str) -> int:
    """How many points a chart has, by its own words."""
    words = page.get_by_role("img", name=re.compile(f"^{chart}\\.")).get_attribute("aria-label")
    found = re.search(r"(\d+) points", words)
    return int(found[1]) if found else 0


def note_stream(asked_behind: list[int], sent) -> None:
    """Behind which event a stream was asked for."""
    if sent.url.endswith("/events"):
        asked_behind.append(int(sent.headers["last-event-id"]))


def test_runs_by_phase(site, enter):
    for number, phase in enumerate(["succeeded", "failed", "running"]):
        run = site.run(f"run_{number:012x}", name=f"{phase}-one")
        if phase != "running":
            site.jobs.living.discard(run)
            site.ledger.set_phase(run, phase, error={"code": "job_failed", "message": "no"})
    page = enter()
    names = page.get_by_role("table", name="Runs").locator("tbody th")
    expect(names).to_have_text(["running-one", "failed-one", "succeeded-one"])
    page.get_by_role("button", name="failed").click()
    expect(names).to_have_text(["failed-one"])
    page.get_by_role("button", name="cancelled").click()
    expect(page.get_by_text("No run is cancelled.")).to_be_visible()
    page.get_by_role("button", name="all").click()
    site.run("run_00000000000a", name="later")
    expect(names).to_have_text(["later", "running-one", "failed-one", "succeeded-one"])


def test_a_live_run_through_a_server_that_is_killed(site, enter, wait_until):
    """Every point once, in order, whatever breaks; a reload keeps everything."""
    run = site.run()
    site.step(run, *range(1, 21))
    page = enter(f"#/runs/{run}", expected=OFFLINE)
    asked_behind: list[int] = []
    page.on("request", lambda sent: note_stream(asked_behind, sent))
    wait_until(lambda: n_points(page, "Loss") == 20)
    site.ledger.append_events(run, [("log", {"text": "said once"})])
    expect(page.get_by_text("said once")).to_be_visible()
    site.step(run, *range(21, 31))
    wait_until(lambda: n_points(page, "Loss") == 30)
    expect(page.get_by_text("30 of 100 steps")).to_be_visible()

    site.kill()
    expect(page.get_by_text("The server does not answer.")).to_be_visible()
    site.step(run, *range(31, 41))
    site.start()
    expect(page.get_by_text("The server does not answer.")).to_be_hidden()
    wait_until(lambda: n_points(page, "Loss") == 40)
    site.step(run, *range(41, 51))
    site.end(run)
    wait_until(lambda: n_points(page, "Loss") == 50)
    expect(page.locator(".head .badge")).to_have_text("succeeded")
    assert n_points(page, "Validation bits per byte") == 10
    expect(page.get_by_text("said once")).to_have_count(1)
    assert asked_behind
    assert min(asked_behind) > 20

    page.get_by_text("Numbers", exact=True).click()
    once = shown_rows(page)
    assert [int(step) for step, _ in once] == list(range(1, 51))
    told = [event.data for event in site.ledger.events(run, kinds=("metric",))]
    losses = {event["step"]: event["loss"] for event in told if "loss" in event}
    for step, loss in once:
        assert abs(float(loss) - losses[int(step)]) < 1e-3
    page.reload()
    wait_until(lambda: n_points(page, "Loss") == 50)
    page.get_by_text("Numbers", exact=True).click()
    assert shown_rows(page) == once


def told(*seqs: int, kind: str = "log") -> str:
    """Events as a stream has them."""
    blocks = []
    for seq in seqs:
        data = {"text": f"note {seq}", "phase": "succeeded"}
        event = {"kind": kind, "created_at": 0, "data": data}
        blocks.append(f"id: {seq}\nevent: {kind}\ndata: {json.dumps(event)}\n\n")
    return "".join(blocks)


def test_what_comes_twice_counts_once_and_half_an_event_not_at_all(site, enter):
    """As through a proxy that repeats itself and breaks in the middle of an event."""
    run = site.run()
    streams = iter([told(1, 2, 3) + told(4)[:-9], told(2, 3, 4, 5) + told(6, kind="phase")])
    page = enter()
    kind = "text/event-stream"
    page.route("**/events", lambda each: each.fulfill(body=next(streams), content_type=kind))
    page.evaluate(f"location.hash = '#/runs/{run}'")
    notes = page.locator(".notes li")
    expect(notes).to_have_text(
        [re.compile("succeeded$"), *(re.compile(f"note {n}$") for n in (5, 4, 3, 2, 1))]
    )
    assert next(streams, None) is None


def test_steps_done_again_after_a_crash_are_not_points_twice(site, enter, wait_until):
    run = site.run()
    site.step(run, *range(1, 11))
    page = enter(f"#/runs/{run}")
    wait_until(lambda: n_points(page, "Loss") == 10)
    site.ledger.append_events(run, [("resumed", {"step": 5})])
    site.step(run, *range(6, 16))
    wait_until(lambda: n_points(page, "Loss") == 15)
    expect(page.get_by_text("from step 5")).to_be_visible()


def test_pause_resume_and_cancel(site, enter):
    run = site.run()
    page = enter(f"#/runs/{run}")
    page.get_by_role("button", name="Pause").click()
    expect(page.locator(".head .badge")).to_have_text("pausing")
    site.jobs.living.discard(run)
    site.ledger.set_phase(run, "paused")
    expect(page.locator(".head .badge")).to_have_text("paused")
    page.get_by_role("button", name="Cancel").click()
    assert site.ledger.run(run).phase == "paused"
    page.get_by_role("button", name="Really cancel?").click()
    expect(page.locator(".head .badge")).to_have_text("cancelled")
    assert site.ledger.run(run).phase == "cancelled"


def test_a_run_that_failed_says_why_and_shows_its_config_and_log(site, enter):
    run = site.run(seed=17)
    site.jobs.living.discard(run)
    error = {"code": "training_diverged", "message": "the loss is nan", "hint": "lower the rate"}
    site.ledger.set_phase(run, "failed", error=error)
    page = enter(f"#/runs/{run}")
    expect(page.get_by_role("alert").filter(has_text="the loss is nan")).to_contain_text("lower")
    page.get_by_text("Config", exact=True).click()
    expect(
        page.locator("details dl > div", has=page.get_by_text("seed", exact=True))
    ).to_contain_text("17")
    page.get_by_text("Log", exact=True).click()
    expect(page.get_by_label("Log", exact=True)).to_have_text("it goes on")


def test_samples_step_by_step(site, enter):
    run = site.run()
    for step in (10, 20):
        said = {"step": step, "prompt": "Once", "text": f"upon {step}"}
        site.ledger.append_events(run, [("sample", said)])
    page = enter(f"#/runs/{run}")
    expect(page.get_by_text("upon 20")).to_be_visible()
    page.get_by_label("step", exact=True).press("Home")
    expect(page.get_by_text("upon 10")).to_be_visible()
    expect(page.get_by_text("upon 20")).to_be_hidden()


def test_several_runs_in_one_chart(site, enter, wait_until):
    for number in range(3):
        run = site.run(f"run_{number:012x}", name=f"try-{number}", seed=number)
        site.step(run, *range(1, 11))
        site.end(run)
    page = enter()
    for number in (0, 2):
        page.get_by_role("checkbox", name=f"compare try-{number}").check()
    page.get_by_role("button", name="Compare 2").click()
    chart = page.get_by_role("img", name=re.compile("^Loss"))
    expect(chart).to_have_attribute("aria-label", re.compile("try-0: 10 points.*try-2: 10 points"))
    differ = page.get_by_role("table", name="Configs")
    expect(differ.locator("tbody th")).to_have_text(["name", "seed"])


def test_no_such_run(site, enter):
    page = enter("#/runs/run_nothing", expected=("the server responded with a status of 404",))
    expect(page.get_by_role("main").get_by_role("alert").first).to_contain_text("run_nothing")


def test_a_run_is_forked_with_changed_settings(site, enter):
    site.versions()
    run = site.run(seed=17)
    config = site.ledger.run(run).config
    page = enter(f"#/runs/{run}", expected=("status of 400",))
    page.get_by_text("Fork", exact=True).click()
    setting, value = page.get_by_label("Setting"), page.get_by_label("Value")
    expect(value).to_have_value("17")
    value.fill("much")
    page.get_by_role("button", name="Start it").click()
    expect(page.get_by_role("main").get_by_role("alert")).to_contain_text("seed")
    value.fill("18")
    page.get_by_role("button", name="Another setting").click()
    setting.last.select_option("precision")
    expect(value.last).to_have_value(config["precision"])
    setting.last.select_option("name")
    value.last.fill("<b>child</b>")
    page.get_by_role("button", name="Start it").click()
    expect(page.get_by_role("main").get_by_role("alert")).to_contain_text("<b>child</b>")
    value.last.fill("child")
    page.get_by_role("button", name="Start it").click()
    expect(page.get_by_role("heading", name="child", level=1)).to_be_visible()
    [child] = [each for each in site.ledger.runs() if each.id != run]
    assert child.config == config | {"seed": 18, "name": "child"}
    page.get_by_text("Fork", exact=True).click()
    page.get_by_role("button", name="Start it").click()
    expect(page.get_by_text("That is this very run")).to_be_visible()


def test_a_text_that_looks_like_a_number_stays_a_text_in_a_fork(site, enter):
    site.versions()
    run = site.run(name="2024", seed=17)
    page = enter(f"#/runs/{run}")
    page.get_by_text("Fork", exact=True).click()
    setting, value = page.get_by_label("Setting"), page.get_by_label("Value")
    setting.select_option("name")
    expect(value).to_have_value('"2024"')
    page.get_by_role("button", name="Another setting").click()
    value.last.fill("18")
    with page.expect_request("**/fork") as asked:
        page.get_by_role("button", name="Start it").click()
    assert asked.value.post_data_json == {"config": {"seed": 18}}
    page.wait_for_url(lambda url: run not in url)
    [child] = [each for each in site.ledger.runs() if each.id != run]
    assert child.config == site.ledger.run(run).config | {"seed": 18}
