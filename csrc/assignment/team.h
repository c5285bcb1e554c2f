// A few threads that live as long as one solve. Unlike OpenMP's, they survive a fork of the
// process (workers of a data loader) and are understood by the thread sanitizer.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace fastgen::assignment {

class Team {
 public:
  // Of fewer threads where no more can be made; no result depends on how many there are.
  explicit Team(int threads) {
    workers_.reserve(threads > 1 ? threads - 1 : 0);
    try {
      for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { work(i); });
    } catch (const std::system_error&) {
    }
  }
  Team(const Team&) = delete;
  ~Team() {
    if (workers_.empty()) return;
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
      generation_.fetch_add(1);
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  // function(begin, end, thread) over [0, count) in pieces of `grain`, thread 0 being the caller.
  template <class Function>
  void each(int64_t count, int64_t grain, Function&& function) {
    if (workers_.empty() || count <= grain) {
      for (int64_t begin = 0; begin < count; begin += grain)
        function(begin, begin + grain < count ? begin + grain : count, 0);
      return;
    }
    std::atomic<int64_t> next{0};
    const std::function<void(int)> job = [&](int thread) {
      for (int64_t begin; (begin = next.fetch_add(grain)) < count;)
        function(begin, begin + grain < count ? begin + grain : count, thread);
    };
    run(job);
  }

 private:
  // How often a waiting thread looks before it sleeps, some tenths of a millisecond (to wake it
  // takes tens of microseconds, as long as many jobs), or lets others run.
  static constexpr int SPINS = 1 << 14, PATIENCE = 1 << 10;

  static void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }

  void run(const std::function<void(int)>& job) {
    job_ = &job;
    busy_.store(static_cast<int>(workers_.size()));
    generation_.fetch_add(1);
    // A worker counts itself before it looks a last time, so that none sleeps through this.
    if (asleep_.load()) {
      const std::lock_guard lock(mutex_);
      wake_.notify_all();
    }
    try {
      job(0);
    } catch (...) {
      keep_error();
    }
    for (int spin = 0; busy_.load(); ++spin)
      if (spin < PATIENCE)
        pause();
      else
        std::this_thread::yield();
    if (error_) {
      const std::exception_ptr error = std::exchange(error_, nullptr);
      std::rethrow_exception(error);
    }
  }

  void work(int thread) {
    uint64_t seen = 0;
    for (;;) {
      for (int spin = 0; spin < SPINS && generation_.load() == seen; ++spin) pause();
      if (generation_.load() == seen) {
        std::unique_lock lock(mutex_);
        ++asleep_;
        wake_.wait(lock, [&] { return generation_.load() != seen; });
        --asleep_;
      }
      seen = generation_.load();
      if (stop_) return;
      try {
        (*job_)(thread);
      } catch (...) {
        keep_error();
      }
      busy_.fetch_sub(1);
    }
  }

  void keep_error() {
    const std::lock_guard lock(mutex_);
    if (!error_) error_ = std::current_exception();
  }

  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<uint64_t> generation_{0};
  std::atomic<int> busy_{0}, asleep_{0};
  const std::function<void(int)>* job_ = nullptr;
  std::exception_ptr error_;
  bool stop_ = false;
};

}  // namespace fastgen::assignment
