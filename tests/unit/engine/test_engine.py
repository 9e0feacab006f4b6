from __future__ import annotations

import time
from dataclasses import replace

import pytest

from mulm.data.tokenizer import train_tokenizer
from mulm.engine.engine import Engine
from mulm.engine.fake import FakeConfig, FakeModel
from mulm.errors import ConfigError, ConflictError, ContextLengthError, OverloadedError
from mulm.messages import GenerateRequest, Grammar, SamplingParams, join_chunks
from mulm.model.batch import Batch


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def engine(model: FakeModel | None = None, **options) -> Engine:
    return Engine(model or FakeModel(), **{"n_slots": 3, **options})


def request(
    name: str, prompt=(1, 2, 3), max_tokens=6, temperature=0.0, deadline_s=600.0, **sampling
) -> GenerateRequest:
    params = SamplingParams(max_tokens=max_tokens, temperature=temperature, **sampling)
    return GenerateRequest(name, tuple(prompt), params, deadline_s)


def alone(one: GenerateRequest, **options):
    return engine(**options).generate([one])[one.request_id]


MIXED = [
    request("greedy", (1, 2)),
    request("seeded", (3,), temperature=1.0, seed=7),
    request("top_k", (4, 5, 6), temperature=1.5, top_k=4, seed=1),
    request("top_p", (7,) * 9, temperature=0.7, top_p=0.6, seed=2, max_tokens=11),
    request("late comer", (8, 9), temperature=1.0, seed=7),
]


def test_a_batch_gives_what_each_request_gives_alone():
    together = engine().generate(MIXED)
    assert together == {one.request_id: alone(one) for one in MIXED}


@pytest.mark.parametrize("prefill_tokens", [1, 2, 5, 256])
def test_chunked_prefill_equals_whole(prefill_tokens):
    assert engine(prefill_tokens=prefill_tokens).generate(MIXED) == engine().generate(MIXED)


def test_a_long_prompt_does_not_stall_running_streams():
    model = FakeModel(FakeConfig(max_seq_len=200))
    under_test = engine(model, prefill_tokens=8)
    under_test.add(request("stream", max_tokens=40))
    under_test.step()
    under_test.add(request("long", (1,) * 80))
    for _ in range(10):
        assert next(c.request_id for c in under_test.step()) == "stream"
    assert max(max(sizes, default=0) for sizes in model.batches) == 8


def test_stop_tokens_end_the_sequence_and_are_not_returned():
    whole = alone(request("a", max_tokens=8)).token_ids
    stopped = alone(request("a", max_tokens=8, stop_token_ids=(whole[3],)))
    assert stopped.token_ids == whole[: whole.index(whole[3])]
    assert stopped.finish_reason == "stop"


def test_max_tokens_is_exact():
    answer = alone(request("a", max_tokens=5))
    assert (len(answer.token_ids), answer.finish_reason) == (5, "length")


def test_waiting_requests_are_served_in_order_of_arrival():
    under_test = engine(n_slots=1)
    for name in "abc":
        under_test.add(request(name, max_tokens=2))
    first_tokens = [c.request_id for _ in range(6) for c in under_test.step()]
    assert first_tokens == ["a", "a", "b", "b", "c", "c"]


def test_cancel_frees_the_slot_at_once():
    under_test = engine(n_slots=1)
    under_test.add(request("a"))
    under_test.add(request("b"))
    under_test.step()
    assert under_test.cancel("a")
    under_test.check_integrity()
    assert under_test.n_running == 0
    assert not under_test.cancel("a")
    assert {c.request_id for c in under_test.step()} == {"b"}


def test_a_waiting_request_can_be_cancelled():
    under_test = engine(n_slots=1)
    under_test.add(request("a"))
    under_test.add(request("b"))
    assert under_test.cancel("b")
    under_test.check_integrity()
    assert under_test.n_unfinished == 1


def seconds_to_cancel(n_waiting: int) -> float:
    """One of so many, from the end of the line; the least of five times."""
    under_test = engine(n_slots=1, max_waiting=n_waiting)
    for n in range(n_waiting):
        under_test.add(request(f"r{n}"))
    seconds = []
    for last in range(n_waiting, n_waiting - 25, -5):
        begin_s = time.thread_time()
        assert all(under_test.cancel(f"r{last - n}") for n in range(1, 6))
        seconds.append(time.thread_time() - begin_s)
    under_test.check_integrity()
    assert under_test.n_unfinished == n_waiting - 25
    return min(seconds)


def test_to_leave_a_long_line_takes_no_longer_than_a_short_one():
    """Looking through 20,000 would take more than a hundred times as long."""
    assert seconds_to_cancel(20_000) < 25 * seconds_to_cancel(30)


def test_a_reused_slot_remembers_nothing():
    under_test = engine(n_slots=1)
    under_test.generate([request("long", (9,) * 20)])
    assert under_test.generate([request("a")])["a"] == alone(request("a"))


def test_the_waiting_line_is_bounded():
    under_test = engine(n_slots=1, max_waiting=1)
    under_test.add(request("a"))
    under_test.add(request("b"))
    with pytest.raises(OverloadedError):
        under_test.add(request("c"))
    under_test.check_integrity()


def test_generate_feeds_more_requests_than_the_line_holds():
    requests = [request(f"r{i}", (i + 1,)) for i in range(9)]
    assert len(engine(n_slots=2, max_waiting=1).generate(requests)) == 9


def test_generate_takes_no_tokens_from_requests_that_were_added():
    under_test = engine()
    under_test.add(request("added", max_tokens=2))
    with pytest.raises(ConflictError, match="1 requests that were added"):
        under_test.generate([request("a")])
    assert [chunk.request_id for chunk in under_test.step()] == ["added"]
    under_test.cancel("added")
    assert set(under_test.generate([request("a")])) == {"a"}


def test_two_requests_of_one_id_are_refused_even_if_the_first_has_ended():
    under_test = engine(n_slots=1, max_waiting=1)
    asked = [request(name, (n + 1,)) for n, name in enumerate("abcda")]
    with pytest.raises(ConflictError, match="two of the requests have the id 'a'"):
        under_test.generate(asked)
    assert not under_test.n_unfinished
    under_test.check_integrity()


@pytest.mark.parametrize("started", [True, False])
def test_a_deadline_ends_a_request(started):
    clock = Clock()
    under_test = engine(n_slots=1, clock=clock)
    if not started:
        under_test.add(request("first"))
    under_test.add(request("a", deadline_s=5.0))
    under_test.step()
    clock.now_s = 5.0
    ended = {c.request_id: c.finish_reason for c in under_test.step() if c.finish_reason}
    assert ended == {"a": "deadline"}
    under_test.check_integrity()


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (request("x", (1,) * 60, max_tokens=5), ContextLengthError),
        (request("x", ()), ConfigError),
        (request("x", max_tokens=0), ConfigError),
        (request("x", (50,)), ConfigError),
        (request("x", (-1,)), ConfigError),
        (request("known"), ConflictError),
    ],
)
def test_impossible_requests_are_refused_before_they_take_anything(bad, error):
    under_test = engine()
    under_test.add(request("known"))
    with pytest.raises(error):
        under_test.add(bad)
    under_test.check_integrity()
    assert under_test.n_unfinished == 1


def test_the_whole_window_can_be_used():
    answer = alone(request("x", (1,) * 60, max_tokens=4))
    assert len(answer.token_ids) == 4


def test_requests_without_a_seed_differ_and_follow_the_engines_seed():
    twins = [request(name, temperature=1.0) for name in "ab"]
    first = engine(seed=1).generate(twins)
    assert first["a"].token_ids != first["b"].token_ids
    assert engine(seed=1).generate(twins) == first


def test_an_empty_step_is_harmless():
    assert engine().step() == []


LONG = tuple(n % 50 for n in range(40))


def test_a_beginning_that_was_computed_is_not_computed_again():
    model = FakeModel()
    under_test = engine(model)
    first = under_test.generate([request("a", LONG)])["a"]
    n_computed = sum(map(sum, model.batches))
    again = under_test.generate([request("b", LONG)])["b"]
    assert again.token_ids == first.token_ids
    assert (first.n_cached_tokens, again.n_cached_tokens) == (0, 32)
    assert sum(map(sum, model.batches)) - n_computed == 8 + 5
    assert (under_test.stats().prefix_tokens, under_test.stats().prefix_hits) == (80, 32)


@pytest.mark.parametrize("changes", [
    {"is_embedding": True, "sampling": SamplingParams(max_tokens=0)},
    {"sampling": SamplingParams(max_tokens=2, prompt_logprobs=0)},
])  # fmt: skip
def test_prompts_that_may_not_be_found_are_not_looked_up(changes):
    under_test = engine()
    under_test.generate([request("a", LONG)])
    under_test.generate([replace(request("b", LONG), **changes)])
    assert (under_test.stats().prefix_tokens, under_test.stats().prefix_hits) == (40, 0)


def test_answers_survive_the_loss_of_their_pages():
    requests = [request(f"r{n}", (n,) * 10, 40, temperature=1.0, seed=n) for n in range(3)]
    small, large = engine(n_pages=5), engine()
    assert small.generate(requests) == large.generate(requests)
    assert small.stats().n_preemptions > 0
    for under_test in (small, large):
        assert (under_test.stats().prefix_tokens, under_test.stats().prefix_hits) == (30, 0)


STREAM = request("stream", max_tokens=40)


def preempted(one: GenerateRequest):
    """Its answer where a stream takes its pages away, as often as that happens."""
    under_test = engine(n_slots=2, n_pages=4, prefill_tokens=3)
    under_test.add(STREAM)
    while under_test.stats().generated_tokens < 6:
        under_test.step()
    under_test.add(one)
    chunks = []
    while under_test.n_unfinished:
        chunks += [chunk for chunk in under_test.step() if chunk.request_id == "a"]
        under_test.check_integrity()
    assert under_test.stats().n_preemptions > 0
    return join_chunks(chunks)


def test_an_embedding_survives_the_loss_of_its_pages():
    one = replace(request("a", LONG, max_tokens=0), is_embedding=True)
    lost, whole = preempted(one), alone(one)
    assert lost.embedding == pytest.approx(whole.embedding, rel=1e-6)
    assert replace(lost, embedding=()) == replace(whole, embedding=())


@pytest.mark.parametrize("max_tokens", [0, 12])
def test_prompt_logprobs_survive_the_loss_of_pages(max_tokens):
    one = request("a", LONG, max_tokens, prompt_logprobs=2, logprobs=1)
    assert preempted(one) == alone(one)


def test_new_weights_write_the_rest_of_an_answer():
    one = request("a", LONG[:20], max_tokens=12)
    under_test = engine(FakeModel(salt=1))
    under_test.add(one)
    before = tuple(t for _ in range(5) for chunk in under_test.step() for t in chunk.token_ids)
    under_test.swap(FakeModel(salt=2))
    assert under_test.stats().n_preemptions == 0
    after = []
    while under_test.n_unfinished:
        after += [t for chunk in under_test.step() for t in chunk.token_ids]
    wanted = engine(FakeModel(salt=2)).generate([request("x", (*one.prompt_ids, *before), 7)])["x"]
    assert tuple(after) == wanted.token_ids
    assert tuple(after) != alone(one, model=FakeModel(salt=1)).token_ids[5:]
    stats = under_test.stats()
    assert (stats.n_preemptions, stats.prefix_tokens, stats.prefix_hits) == (0, 20, 0)


def test_new_weights_find_nothing_of_the_old():
    under_test = engine(FakeModel(salt=1))
    under_test.generate([request("a", LONG)])
    under_test.swap(FakeModel(salt=2))
    answer = under_test.generate([request("b", LONG)])["b"]
    assert answer.n_cached_tokens == 0
    assert answer.token_ids == alone(request("b", LONG), model=FakeModel(salt=2)).token_ids


@pytest.mark.parametrize("prefill_tokens", [7, 256])
@pytest.mark.parametrize("max_tokens", [0, 3])
def test_prompt_logprobs_are_those_of_the_rows_before(prefill_tokens, max_tokens):
    one = request("a", LONG, max_tokens, prompt_logprobs=2)
    under_test = engine(prefill_tokens=prefill_tokens)
    under_test.generate([request("same beginning", LONG)])
    answer = under_test.generate([one])["a"]
    model = FakeModel()
    batch = Batch.of((LONG, 0, [0, 1, 2]), wants_all=True)
    wanted = model.logits(model.extend(batch, model.make_cache(3))).log_softmax(-1)
    assert answer.prompt_logprobs[0] is None
    assert len(answer.prompt_logprobs) == len(LONG)
    for place, item in enumerate(answer.prompt_logprobs[1:]):
        assert item.token_id == LONG[place + 1]
        assert item.logprob == pytest.approx(float(wanted[place, item.token_id]), abs=1e-5)
        assert item.top[0][0] == int(wanted[place].argmax())
        assert len(item.top) == 2
    assert len(answer.token_ids) == max_tokens
    assert answer.finish_reason == "length"


@pytest.mark.parametrize("prefill_tokens", [7, 256])
def test_an_embedding_is_the_mean_hidden_state(prefill_tokens):
    one = replace(request("a", LONG, max_tokens=0), is_embedding=True)
    answer = engine(prefill_tokens=prefill_tokens).generate([one])["a"]
    model = FakeModel()
    batch = Batch.of((LONG, 0, [0, 1, 2]), wants_all=True)
    wanted = model.extend(batch, model.make_cache(3)).double().mean(dim=0)
    assert answer.embedding == pytest.approx(wanted.tolist(), rel=1e-5)
    assert answer.token_ids == ()


def test_a_stop_string_ends_an_answer_with_the_token_that_completes_it():
    tokenizer = train_tokenizer([], 288)
    model = FakeModel(FakeConfig(vocab_size=288))
    whole = engine(model).generate([request("a", max_tokens=30)])["a"].token_ids
    stop = next(c for c in tokenizer.decode(whole[4:]) if c.isascii() and c.isprintable())
    one = request("a", max_tokens=30, stops=("never", stop))
    under_test = engine(FakeModel(model.config), tokenizer=tokenizer)
    answer = under_test.generate([one])["a"]
    assert answer.finish_reason == "stop"
    assert answer.token_ids == whole[: len(answer.token_ids)]
    assert stop in tokenizer.decode(answer.token_ids)
    assert stop not in tokenizer.decode(answer.token_ids[:-1])
    under_test.check_integrity()


def test_min_tokens_come_first():
    whole = alone(request("a", max_tokens=8)).token_ids
    early = request("a", max_tokens=8, stop_token_ids=(whole[1],), min_tokens=5)
    assert len(alone(early).token_ids) >= 5


def test_stop_strings_before_min_tokens_are_passed_over():
    tokenizer = train_tokenizer([], 288)
    config = FakeConfig(vocab_size=288, max_seq_len=200)
    whole = engine(FakeModel(config)).generate([request("a", max_tokens=150)])["a"].token_ids
    texts = [tokenizer.decode([token_id]) for token_id in whole]
    early, late = next(
        (n, texts.index(text, n + 1))
        for n, text in enumerate(texts[:-1])
        if len(text) == 1 and text.isprintable() and text.isascii() and text in texts[n + 1 :]
    )
    ends = {early: early + 1, early + 1: early + 1, early + 2: late + 1, late + 2: None}
    for min_tokens, n_tokens in ends.items():
        one = request("a", max_tokens=late + 3, stops=(texts[early],), min_tokens=min_tokens)
        answer = engine(FakeModel(config), tokenizer=tokenizer).generate([one])["a"]
        assert answer.token_ids == whole[: n_tokens or late + 3]
        assert answer.finish_reason == ("length" if n_tokens is None else "stop")


def test_the_waiting_line_is_bounded_in_tokens():
    under_test = engine(n_slots=1, max_waiting=9, max_waiting_tokens=50)
    under_test.add(request("running"))
    under_test.step()
    under_test.add(request("first", LONG))
    with pytest.raises(OverloadedError, match="40 tokens"):
        under_test.add(request("second", LONG))
    under_test.check_integrity()


@pytest.mark.parametrize(
    ("bad", "param"),
    [
        (request("x", stops=("a",)), "stop"),
        (request("x", grammar=Grammar("json_object")), "grammar"),
        (replace(request("x"), adapter="poet"), "model"),
        (request("x", temperature=float("nan")), "temperature"),
        (request("x", logit_bias=((50, 1.0),)), "logit_bias"),
        (replace(request("x"), n=3, best_of=2), "best_of"),
        (replace(request("x"), n=0), "n"),
        (replace(request("x"), best_of=0), "best_of"),
        (request("x", logprobs=-1), "logprobs"),
        (request("x", logprobs=10**6), "logprobs"),
        (request("x", prompt_logprobs=-1), "prompt_logprobs"),
        (request("x", stops=("",)), "stop"),
        (request("x", deadline_s=float("nan")), "deadline_s"),
    ],
)
def test_what_is_impossible_is_named(bad, param):
    with pytest.raises(ConfigError) as caught:
        engine().add(bad)
    assert caught.value.details["param"] == param


def test_who_finds_no_room_has_nothing_made_for_him():
    made = []

    def make_constraint(grammar, stop_token_ids):
        made.append(grammar)
        raise AssertionError("there is no room for it")

    under_test = engine(n_slots=1, max_waiting=1, make_constraint=make_constraint, seed=3)
    under_test.add(request("a"))
    under_test.add(request("b"))
    for _ in range(3):
        with pytest.raises(OverloadedError):
            under_test.add(replace(request("c", grammar=Grammar("json_object")), n=100))
    assert made == []


@pytest.mark.parametrize("param", ["n", "best_of"])
def test_choices_of_a_request_are_bounded_where_nobody_waits_too(param):
    under_test = engine()
    with pytest.raises(ConfigError, match="1 to 1024 choices") as caught:
        under_test.add(replace(request("x", max_tokens=1), **{param: 50_000}))
    assert caught.value.details["param"] == param
    assert under_test.n_unfinished == 0
    assert len(under_test.generate_all([replace(request("x", max_tokens=1), n=1024)])["x"]) == 1024


def test_a_request_that_cannot_be_taken_takes_the_others_with_it_and_leaves_nothing():
    under_test = engine(n_slots=2)
    with pytest.raises(ContextLengthError):
        under_test.generate([request("good"), request("bad", (1,) * 60, max_tokens=50)])
    assert under_test.n_unfinished == 0
    under_test.check_integrity()
    assert set(under_test.generate([request("next")])) == {"next"}


def test_an_id_that_is_used_again_has_a_deadline_of_its_own():
    clock = Clock()
    under_test = engine(n_slots=1, clock=clock)
    under_test.generate([request("a", max_tokens=1, deadline_s=5.0)])
    under_test.add(request("a", max_tokens=20, deadline_s=600.0))
    under_test.step()
    clock.now_s = 6.0
    assert [chunk.finish_reason for chunk in under_test.step()] == [None]


def test_a_step_that_may_read_nothing_is_refused():
    with pytest.raises(ConfigError):
        engine(n_slots=1, prefill_tokens=0)


def test_thousands_are_answered_in_order_while_few_wait():
    """The source is read only as far as the line has room: what waits is bounded, not their sum."""
    n_requests, n_taken, most_unfinished = 3000, 0, 0
    under_test = engine(n_slots=4, max_waiting=10)

    def source():
        nonlocal n_taken, most_unfinished
        for number in range(n_requests):
            n_taken += 1
            most_unfinished = max(most_unfinished, under_test.n_unfinished)
            yield request(str(number), (number % 50, number // 50 % 50), number % 3 + 1)

    answers = under_test.generate(source())
    assert list(answers) == [str(number) for number in range(n_requests)]
    assert n_taken == n_requests
    assert most_unfinished <= 4 + 10
    for number in (0, 1, 1499, 2999):
        one = request(str(number), (number % 50, number // 50 % 50), number % 3 + 1)
        assert answers[str(number)] == alone(one)
    assert {len(answer.token_ids) for answer in answers.values()} == {1, 2, 3}
    under_test.check_integrity()
    assert under_test.stats().n_free_pages == under_test.n_pages
