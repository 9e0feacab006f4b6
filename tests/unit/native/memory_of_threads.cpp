// Counts what threads other than the first allocate in steps of a small model; prints the count.
// Compiled and run by test_memory.py.

#include <cstdio>
#include <cstdlib>

#include "check.h"

static std::atomic<int> n_taken{0};
static thread_local bool is_first = false;

void* operator new(size_t n) {
    if (!is_first) ++n_taken;
    if (void* at = std::malloc(n)) return at;
    throw std::bad_alloc();
}
void operator delete(void* at) noexcept { std::free(at); }
void operator delete(void* at, size_t) noexcept { std::free(at); }

using namespace mulm;

template <class F>
void step(Format kv_format, int n_tokens, int first) {
    Shape shape{64, 32, 2, 4, 2, 16, 48, 2048, 1, 1, kFp32, kFp32, kv_format, 3};
    std::vector<float> table(shape.max_seq_len * shape.d_head);
    Model model(shape, 1e-6f, table.data(), table.data());
    Cache cache(model, 128);
    std::vector<int32_t> ids(n_tokens), positions, pages;
    for (int i = 0; i < n_tokens; ++i) positions.push_back(first + i);
    for (int i = 0; i < 128; ++i) pages.push_back(i);
    const int32_t begins[] = {0, n_tokens}, wanted[] = {0};
    const Batch batch{ids.data(), positions.data(), begins, pages.data(), wanted, nullptr, n_tokens, 1, 1, 128};
    std::vector<float> hidden(shape.d_model), logits(64);
    if (fault_of(model, cache, batch)) std::exit(2);
    Step<F>(model, cache.pages, batch).run(hidden.data());
    write_logits<F>(model, hidden.data(), 1, logits.data());
}

int main() {
    is_first = true;
    for (Format kv_format : {kFp32, kInt8}) {
        step<Fp32>(kv_format, 40, 0);     // a prompt
        step<Fp32>(kv_format, 1, 1200);   // a stream, in stretches
    }
    std::printf("%d\n", n_taken.load());
}
