// A few threads that start together, meet at barriers and end together.
#pragma once
#include <atomic>
#include <thread>
#include <vector>

class Barrier {
  public:
    explicit Barrier(int count) : count(count) {}
    // Spins for some microseconds, then lets others run: a core may be shared.
    void wait() {
        const int turn = round.load(std::memory_order_acquire);
        if (arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == count) {
            arrived.store(0, std::memory_order_relaxed);
            round.store(turn + 1, std::memory_order_release);
            return;
        }
        for (int spins = 0; round.load(std::memory_order_acquire) == turn; spins++) {
            if (spins < 2000) __builtin_ia32_pause();
            else std::this_thread::yield();
        }
    }

  private:
    const int count;
    std::atomic<int> arrived{0}, round{0};
};

// Run work(thread) on `count` threads, the caller's among them.
template <class Work>
void run_threads(int count, Work work) {
    std::vector<std::thread> others;
    for (int i = 1; i < count; i++) others.emplace_back(work, i);
    work(0);
    for (auto& other : others) other.join();
}

// The part of n items that falls to one thread: [first, last).
struct Slice {
    long first, last;
    Slice(long n, int thread, int threads)
        : first(n * thread / threads), last(n * (thread + 1) / threads) {}
};
