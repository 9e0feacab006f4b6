// A few threads that carry out one step together. Owned by a model. The caller is thread 0; all pass
// the same barriers, in the same order. Whoever waits, at a barrier or between steps, spins for a while
// and then sleeps: an idle model costs nothing, and where others want the cores too, the core of one who
// sleeps takes up the one who is waited for. Spinning on would hold it until the others' time is up. At a
// barrier the while is long, since sleep and waking cost more than the moments that other processes take
// from a thread; when it was not long enough, somebody keeps a core busy, and for some time it is short.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace mulm {

inline void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

class Pool {
  public:
    // Throws std::system_error where the system gives no more threads; those that began have ended then.
    explicit Pool(int n_threads) { start(n_threads); }

    ~Pool() { end(); }

    int n_threads() const { return n_threads_; }

    // Other threads, between two runs. Throws as the making does, and has the caller's alone then.
    void resize(int n_threads) {
        end();
        start(n_threads);
    }

    // Have every thread run `task(thread)`; returns when all have.
    void run(const std::function<void(int)>& task) {
        task_ = &task;
        begin();
        task(0);
        wait();
    }

    // Everybody in a task waits here for everybody else.
    void wait() {
        if (n_threads_ == 1) return;
        const uint32_t turn = turn_.load(std::memory_order_relaxed);
        if (n_here_.fetch_add(1, std::memory_order_acq_rel) + 1 == n_threads_) {
            n_here_.store(0, std::memory_order_relaxed);
            turn_.store(turn + 1);
            if (n_waiting_.load()) {
                { std::lock_guard<std::mutex> lock(barrier_); }  // nobody is between his look and his sleep
                opened_.notify_all();
            }
            return;
        }
        const int hurries = n_hurries_.load(std::memory_order_relaxed);
        const int spins = hurries ? kHurriedSpins : kSpins;
        for (int n = 0; n < spins; ++n) {
            if (turn_.load(std::memory_order_acquire) != turn) return;
            pause();
        }
        n_hurries_.store(hurries ? hurries - 1 : kHurries, std::memory_order_relaxed);
        std::unique_lock<std::mutex> lock(barrier_);
        n_waiting_.fetch_add(1);
        opened_.wait(lock, [&] { return turn_.load() != turn; });
        n_waiting_.fetch_sub(1);
    }

  private:
    static constexpr int kSpins = 50000;  // half a millisecond or so
    static constexpr int kHurriedSpins = 2000;
    static constexpr int kHurries = 1000;  // sleeps, after a wait that was long
    static constexpr int kIdleSpins = 8000;

    void start(int n_threads) {
        const uint32_t seen = n_begun_.load();
        try {
            threads_.reserve(n_threads);
            for (int i = 1; i < n_threads; ++i) threads_.emplace_back([this, i, seen] { work(i, seen); });
        } catch (...) {
            end();
            throw;
        }
        n_threads_ = n_threads;
    }

    void end() {
        is_ending_ = true;
        begin();
        for (auto& thread : threads_) thread.join();
        threads_.clear();
        is_ending_ = false;
        n_threads_ = 1;
    }

    void begin() {
        {
            std::lock_guard<std::mutex> lock(door_);
            n_begun_.fetch_add(1, std::memory_order_release);
        }
        if (n_asleep_.load()) bell_.notify_all();
    }

    void work(int thread, uint32_t seen) {
        for (;;) {
            for (int n = 0; n < kIdleSpins && n_begun_.load(std::memory_order_acquire) == seen; ++n)
                pause();
            if (n_begun_.load(std::memory_order_acquire) == seen) {
                std::unique_lock<std::mutex> lock(door_);
                n_asleep_.fetch_add(1);
                bell_.wait(lock, [&] { return n_begun_.load() != seen; });
                n_asleep_.fetch_sub(1);
            }
            ++seen;
            if (is_ending_) return;
            (*task_)(thread);
            wait();
        }
    }

    int n_threads_ = 1;
    std::vector<std::thread> threads_;
    const std::function<void(int)>* task_ = nullptr;
    std::atomic<bool> is_ending_{false};
    std::mutex barrier_;
    std::condition_variable opened_;
    std::atomic<int> n_waiting_{0};
    std::atomic<int> n_hurries_{0};  // sleeps that are still to come after few spins
    std::mutex door_;
    std::condition_variable bell_;
    std::atomic<int> n_asleep_{0};
    alignas(64) std::atomic<uint32_t> n_begun_{0};
    alignas(64) std::atomic<int> n_here_{0};
    alignas(64) std::atomic<uint32_t> turn_{0};
};

}  // namespace mulm
