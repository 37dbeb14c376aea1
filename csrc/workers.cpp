#include "workers.hpp"

#include <algorithm>
#include <atomic>
#include <cfenv>
#include <chrono>
#include <exception>
#include <limits>
#include <mutex>
#include <new>
#include <thread>

#include "cpus.hpp"

#ifndef _WIN32
#include <pthread.h>
#include <signal.h>
#endif

namespace rmsprop_fast::workers {
namespace {

// Workers stay awake for so long after their last work: a tight loop then need not wake them, and it is short against
// any other work between two steps.
constexpr std::chrono::microseconds awake_for{50};

class Team {
 public:
  void run_seats(int seats, const std::function<void(int)>& task) {
    const std::unique_lock lock(busy_, std::try_to_lock);
    if (!lock) return task(0);
    grow(seats - 1);
    task_ = &task;
    std::fegetenv(&mode_);
    done_.store(0, std::memory_order_relaxed);
    open_.store(seats - 1);  // before notify_one looks for sleepers
    for (int seat = 1; seat < seats; ++seat) open_.notify_one();
    task(0);
    const int taken = seats - 1 - open_.exchange(0);
    while (done_.load(std::memory_order_acquire) != taken) std::this_thread::yield();
  }

 private:
  // As far as threads can be created; what failed once is not tried again.
  void grow(int workers) {
    if (workers_ >= std::min(workers, most_workers_)) return;
#ifndef _WIN32
    // Workers inherit the mask: signals are for the program's own threads, but for those that report a crash.
    sigset_t most, callers;
    sigfillset(&most);
    for (const int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL}) sigdelset(&most, signal);
    pthread_sigmask(SIG_SETMASK, &most, &callers);
#endif
    try {
      for (; workers_ < workers; ++workers_) std::thread([this] { serve(); }).detach();
    } catch (const std::exception&) {  // no thread, or no memory for one
      most_workers_ = workers_;
    }
#ifndef _WIN32
    pthread_sigmask(SIG_SETMASK, &callers, nullptr);
#endif
  }

  [[noreturn]] void serve() {
    leave_bound_cpu();
    for (;;) {
      int seat = wait_for_seat();
      if (seat == 0 || !open_.compare_exchange_strong(seat, seat - 1, std::memory_order_acquire)) continue;
      std::fesetenv(&mode_);  // or the bits would depend on which thread came to an element
      (*task_)(seat);
      done_.fetch_add(1, std::memory_order_release);
    }
  }

  int wait_for_seat() {
    using Clock = std::chrono::steady_clock;
    for (const auto end = Clock::now() + awake_for; Clock::now() < end; std::this_thread::yield())
      if (const int seat = open_.load(std::memory_order_relaxed)) return seat;
    open_.wait(0, std::memory_order_relaxed);
    return open_.load(std::memory_order_relaxed);
  }

  std::mutex busy_;
  int workers_ = 0, most_workers_ = std::numeric_limits<int>::max();
  const std::function<void(int)>* task_ = nullptr;
  std::fenv_t mode_ = {};                  // the caller's: rounding, flush to zero
  alignas(64) std::atomic<int> open_ = 0;  // seats that are still to be taken, the highest first
  alignas(64) std::atomic<int> done_ = 0;  // calls that have returned
};

// Never destroyed, as workers use it until the process ends.
alignas(Team) unsigned char memory[sizeof(Team)];
Team& team() { return *std::launder(reinterpret_cast<Team*>(memory)); }
void make_team() { new (memory) Team; }

}  // namespace

void prepare() {
  make_team();
#ifndef _WIN32
  pthread_atfork(nullptr, nullptr, make_team);  // a child has no workers: its team begins anew
#endif
}

void run_seats(int seats, const std::function<void(int)>& task) { team().run_seats(seats, task); }

}  // namespace rmsprop_fast::workers
