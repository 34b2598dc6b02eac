// T-20: what each of N deadlines costs that are due at the same time, from a thousand to 16,000.
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <drover/os/detail/reaper_thread.hpp>

#include "support/coroutine.hpp"

namespace {

using bench::Clock;
using bench::Placement;
using namespace std::chrono_literals;

// Of children ---------------------------------------------------------------------------------------------------------

/// Stands for a child, of which no machine has 16,000: it has a deadline in the reaper thread, and no process.
class Child final : public drover::detail::ReaperClient {
 public:
  Child(std::atomic<std::size_t>& left, Clock::time_point& last) : left_(left), last_(last) {}
  void on_event(unsigned) noexcept override {}
  void on_time() noexcept override {
    if (left_.load(std::memory_order_relaxed) == 1) last_ = Clock::now();
    left_.fetch_sub(1, std::memory_order_release);
  }
  Clock::time_point at_exit() noexcept override { return Clock::now(); }

 private:
  std::atomic<std::size_t>& left_;
  Clock::time_point& last_;
};

/// Microseconds for each, from the deadline until the reaper thread has reported the last one.
void children(benchmark::State& state, std::size_t count) {
  bench::pin_parent(Placement::anywhere);
  auto& reaper = drover::detail::ReaperThread::get();
  std::atomic<std::size_t> left{0};
  Clock::time_point last{};
  std::vector<std::uint64_t> ids;
  for (std::size_t i = 0; i < count; ++i) ids.push_back(reaper.add(std::make_shared<Child>(left, last)));
  bench::Samples samples(state);
  for ([[maybe_unused]] auto _ : state) {
    left = count;
    const auto due = Clock::now() + 20ms + count * 20us;
    for (const std::uint64_t id : ids) reaper.arm(id, due);
    const bool too_late = Clock::now() >= due;
    while (left.load(std::memory_order_acquire) > 0) {
      std::this_thread::sleep_for(1ms);
      if (Clock::now() > due + 60s) throw std::runtime_error("deadlines were not reported within a minute");
    }
    if (too_late) throw bench::Unavailable("the machine is too busy: a deadline was due before all were set");
    samples.add(state, last - due, bench::microseconds(last - due) / static_cast<double>(count));
  }
  for (const std::uint64_t id : ids) reaper.remove(id);
  samples.report(state);
}

// Of calls ------------------------------------------------------------------------------------------------------------

asio::awaitable<void> call_until(drover::WorkerPool* pool, drover::Duration deadline, std::size_t* ended) {
  drover::CallOptions options;
  options.deadline = deadline;
  std::error_code error;
  try {
    co_await pool->call<void>(options, "wait");
  } catch (const drover::Error& failure) {
    error = failure.code();
  }
  if (error != drover::Errc::deadline_exceeded) throw std::runtime_error("a call ended before its deadline");
  ++*ended;
}

asio::awaitable<void> call_until_stopped(drover::WorkerPool* pool) {
  try {
    co_await pool->call<void>("wait");
  } catch (const std::system_error&) {
  }
}

asio::awaitable<void> sleep(drover::Duration time) {
  asio::steady_timer timer(co_await asio::this_coro::executor, time);
  co_await timer.async_wait(asio::use_awaitable);
}

/// Microseconds for each, from a turn of the loop at which all deadlines have passed until the last call has ended. The
/// calls are in flight, or they wait in the parent for a worker.
asio::awaitable<void> calls(benchmark::State* state, std::size_t count, bool in_flight) {
  const auto executor = co_await asio::this_coro::executor;
  drover::PoolOptions options;
  options.size = 1;
  options.worker = bench::worker_options(Placement::anywhere);
  options.worker.max_in_flight = in_flight ? count : 1;
  options.max_queued = count;
  options.shutdown_grace = 0s;
  drover::WorkerPool pool = co_await drover::WorkerPool::start(options);
  bench::Group waiting(executor);
  if (!in_flight) waiting.spawn(call_until_stopped(&pool));
  auto deadline = std::chrono::duration_cast<drover::Duration>(100ms + count * 20us);
  bench::Samples samples(*state);
  for ([[maybe_unused]] auto _ : *state) {
    for (int attempt = 0;;
         ++attempt, deadline *= 2) {  // on a busy machine, the first calls expire before the last begin
      while (pool.stats().in_flight > (in_flight ? 0 : 1)) co_await sleep(1ms);
      if (attempt == 4) throw bench::Unavailable("the machine is too busy: calls expire before the others have begun");
      std::size_t ended = 0;
      bench::Group all(executor);
      for (std::size_t i = 0; i < count; ++i) all.spawn(call_until(&pool, deadline, &ended));
      const auto begun = [&] { return in_flight ? pool.stats().in_flight : pool.stats().queued; };
      while (ended == 0 && begun() < count) co_await sleep(1ms);
      const bool too_early = ended > 0;
      std::this_thread::sleep_for(deadline);  // the loop stands still, so that all deadlines are due at its next turn
      const auto begin = Clock::now();
      co_await all.wait();
      const auto taken = Clock::now() - begin;
      if (too_early) continue;
      samples.add(*state, taken, bench::microseconds(taken) / static_cast<double>(count));
      break;
    }
  }
  samples.report(*state);
  co_await pool.stop();
  co_await waiting.wait();
}

}  // namespace

int main(int argc, char** argv) {
  drover::Routines routines;
  routines.add("wait", []() -> asio::awaitable<void> {
    asio::steady_timer never(co_await asio::this_coro::executor, Clock::time_point::max());
    co_await never.async_wait(asio::use_awaitable);
  });
  if (bench::in_worker()) return drover::serve(routines);

  for (const std::size_t count : {1000u, 4000u, 16000u}) {
    const std::string size = std::to_string(count);
    bench::add("T-20/children/" + size, 20, children, count);
    bench::add_coroutine("T-20/queued/" + size, 2, Placement::anywhere, calls, count, false);
    bench::add_coroutine("T-20/in-flight/" + size, 2, Placement::anywhere, calls, count, true);
  }
  return bench::run(argc, argv);
}
