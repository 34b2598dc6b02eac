#pragma once

#include <algorithm>
#include <exception>
#include <fstream>
#include <memory>
#include <thread>

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>
#include <asio/co_spawn.hpp>
#include <asio/steady_timer.hpp>
#include <asio/use_awaitable.hpp>

#include <drover/timeout.hpp>

namespace support {

/// How long this thread has been ready to run and was not let to, because the machine was busy. 0 where the kernel does
/// not tell. See proc(5) and the kernel's sched-stats.
inline drover::Duration kept_waiting() {
  std::ifstream file("/proc/thread-self/schedstat");
  long long ran = 0, waited = 0;
  file >> ran >> waited;
  return std::chrono::nanoseconds(file ? waited : 0);
}

/// Tells whether somebody has blocked the loop: ticks every 10 ms, and remembers the longest gap. What the machine did
/// not let the loop's thread run is not counted.
class Ticker {
 public:
  explicit Ticker(asio::any_io_executor executor) : state_(std::make_shared<State>(executor)) {
    asio::co_spawn(executor, tick(state_), [](std::exception_ptr) {});
  }
  ~Ticker() {
    state_->stopped = true;
    state_->timer.cancel();
  }
  drover::Duration longest_gap() const { return state_->longest; }

 private:
  struct State {
    explicit State(const asio::any_io_executor& executor) : timer(executor) {}
    asio::steady_timer timer;
    drover::Duration longest{};
    bool stopped = false;
  };
  struct Moment {
    drover::Clock::time_point at = drover::Clock::now();
    std::thread::id thread = std::this_thread::get_id();
    drover::Duration waited = kept_waiting();
  };
  static asio::awaitable<void> tick(std::shared_ptr<State> state) {
    for (Moment last; !state->stopped;) {
      state->timer.expires_after(std::chrono::milliseconds(10));
      co_await state->timer.async_wait(asio::use_awaitable);
      const Moment now;
      drover::Duration gap = now.at - last.at;
      if (now.thread == last.thread) gap -= now.waited - last.waited;
      state->longest = std::max(state->longest, gap);
      last = now;
    }
  }
  std::shared_ptr<State> state_;
};

}  // namespace support
