// Threads that wait for work between calls, and the barriers at which those of a call meet.
#pragma once
#include <pthread.h>
#include <signal.h>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <new>
#include <thread>
#include "vector.h"

constexpr int MAX_THREADS = 64;  // tables have this many rows

class Barrier {
  public:
    explicit Barrier(int count) : count(count) {}
    void reset(int threads) { count = threads; }
    // Spins for some microseconds, then lets others run: a core may be shared.
    void wait() {
        const int turn = round.load(std::memory_order_acquire);
        if (arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == count) {
            arrived.store(0, std::memory_order_relaxed);
            round.store(turn + 1, std::memory_order_release);
            return;
        }
        for (int spins = 0; round.load(std::memory_order_acquire) == turn; spins++) {
            if (spins < 2000) pause_spinning();
            else std::this_thread::yield();
        }
    }

  private:
    int count;
    std::atomic<int> arrived{0}, round{0};
};

namespace {  // not shared with another build of the core in the same process

// A thread that sleeps until it gets work. It lives as long as the process.
class Helper {
  public:
    using Call = void (*)(const void* work, int thread);
    Helper* next = nullptr;  // in the list that it is in

    // Null where the system starts no further thread.
    static Helper* create() noexcept {
        auto* helper = new (std::nothrow) Helper;
        sigset_t every, before;  // signals are for Python's threads: they interrupt system calls
        sigfillset(&every);
        pthread_sigmask(SIG_SETMASK, &every, &before);
        try {
            if (helper) std::thread([helper] { helper->loop(); }).detach();
        } catch (...) {
            delete helper;
            helper = nullptr;
        }
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
        return helper;
    }

    void begin(Call new_call, const void* new_work, int new_thread) {
        {
            std::lock_guard<std::mutex> lock(mutex);
            call = new_call, work = new_work, thread = new_thread;
        }
        changed.notify_all();
    }

    // Spins for some microseconds first: threads of one call mostly end together.
    void finish() {
        for (int spins = 0; spins < 2000 && call; spins++) pause_spinning();
        if (!call) return;
        std::unique_lock<std::mutex> lock(mutex);
        changed.wait(lock, [this] { return !call.load(); });
    }

  private:
    std::mutex mutex;
    std::condition_variable changed;
    std::atomic<Call> call{nullptr};  // null: idle
    const void* work = nullptr;
    int thread = 0;

    void loop() noexcept {
        std::unique_lock<std::mutex> lock(mutex);
        for (;;) {
            changed.wait(lock, [this] { return call.load(); });
            lock.unlock();
            call.load()(work, thread);
            lock.lock();
            call = nullptr;
            changed.notify_all();
        }
    }
};

// The helpers that no call is using. A forked child has none of its parent's threads, so its list
// begins empty.
struct Pool {
    std::mutex mutex;
    Helper* idle = nullptr;

    static Pool& get() {
        static Pool* const pool = [] {  // not destroyed: helpers sleep on while the process ends
            pthread_atfork([] { get().mutex.lock(); }, [] { get().mutex.unlock(); },
                           [] {
                               get().idle = nullptr;
                               get().mutex.unlock();
                           });
            return new Pool;
        }();
        return *pool;
    }
};

// The threads of one call: the caller's and helpers, `count` in all, or fewer where the system
// starts no more. Calls from several threads at once get helpers of their own.
class Team {
  public:
    explicit Team(int count) {
        Pool& pool = Pool::get();
        std::lock_guard<std::mutex> lock(pool.mutex);
        while (threads < count) {
            Helper* helper = pool.idle;
            if (helper) pool.idle = helper->next;
            else if (!(helper = Helper::create())) break;
            helper->next = first;
            first = helper;
            threads++;
        }
    }

    ~Team() {
        Pool& pool = Pool::get();
        std::lock_guard<std::mutex> lock(pool.mutex);
        while (Helper* helper = first) {
            first = helper->next;
            helper->next = pool.idle;
            pool.idle = helper;
        }
    }

    Team(const Team&) = delete;
    Team& operator=(const Team&) = delete;

    int size() const { return threads; }

    // work(thread) on every thread of the team. It must not throw: others wait at its barriers.
    template <class Work>
    void run(const Work& work) noexcept {
        int thread = 0;
        for (Helper* helper = first; helper; helper = helper->next)
            helper->begin([](const void* w, int t) { (*(const Work*)w)(t); }, &work, ++thread);
        work(0);
        for (Helper* helper = first; helper; helper = helper->next) helper->finish();
    }

  private:
    int threads = 1;
    Helper* first = nullptr;
};

}  // namespace

// The part of n items that falls to one thread: [first, last).
struct Slice {
    long first, last;
    Slice(long n, int thread, int threads)
        : first(n * thread / threads), last(n * (thread + 1) / threads) {}
};
