#pragma once

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <future>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <asio/executor_work_guard.hpp>
#include <asio/strand.hpp>
#include <asio/thread_pool.hpp>

#include "support/workers.hpp"

/// What tests of calls and pools need.
namespace support {

using drover::PoolOptions;
using drover::RemoteError;

inline WorkerOptions call_worker(std::vector<std::string> steps = {}) {
  WorkerOptions options;
  options.command.program = DROVER_HELPER_CALL_WORKER;
  options.command.args = std::move(steps);
  options.command.out = Stdio::null();
  return options;
}

inline PoolOptions call_pool(std::size_t size, std::vector<std::string> steps = {}) {
  PoolOptions options;
  options.size = size;
  options.worker = call_worker(std::move(steps));
  return options;
}

/// A worker of another program of support/.
inline WorkerOptions worker_of(const char* program, std::size_t max_in_flight) {
  WorkerOptions options;
  options.command.program = program;
  options.max_in_flight = max_in_flight;
  return options;
}

inline PoolOptions pool_of(WorkerOptions worker, std::size_t size) {
  PoolOptions options;
  options.size = size;
  options.worker = std::move(worker);
  options.restart.backoff = 1ms;
  return options;
}

/// Where a scenario runs.
enum class Where { one_thread, four_threads, two_pools };

inline std::string name_of(const ::testing::TestParamInfo<Where>& info) {
  return info.param == Where::one_thread ? "OneThread" : info.param == Where::four_threads ? "FourThreads" : "TwoPools";
}

/// Every function here that runs a scenario keeps it until its coroutine has been destroyed: it may be a lambda.
using Scenario = std::function<asio::awaitable<void>()>;

inline void on_one_thread(const Scenario& scenario, Duration bound = 60s) {
  asio::io_context context(1);
  bool done = false;
  asio::co_spawn(context, scenario(), [&](std::exception_ptr thrown) {
    if (thrown) ADD_FAILURE() << "the scenario threw: " << describe(thrown);
    done = true;
  });
  context.run_for(bound);
  EXPECT_TRUE(done) << "the scenario did not finish";
  EXPECT_TRUE(!done || context.stopped()) << "something keeps the context busy";
}

inline void on_four_threads(const Scenario& scenario, Duration bound = 60s) {
  std::promise<std::exception_ptr> promise;
  auto ended = promise.get_future();
  asio::thread_pool threads(4);
  asio::co_spawn(threads, scenario(), [&](std::exception_ptr thrown) { promise.set_value(thrown); });
  if (ended.wait_for(bound) != std::future_status::ready) {
    ADD_FAILURE() << "the scenario did not finish";
    threads.stop();
    return;
  }
  if (const auto thrown = ended.get()) ADD_FAILURE() << "the scenario threw: " << describe(thrown);
  threads.join();
}

/// How many of them run in this process at the same time.
inline int scenarios_at_once = 1;

inline void run_where(Where where, const Scenario& scenario) {
  scenarios_at_once = where == Where::two_pools ? 2 : 1;
  switch (where) {
    case Where::one_thread: return on_one_thread(scenario);
    case Where::four_threads: return on_four_threads(scenario);
    case Where::two_pools: {
      std::thread other([&] { on_one_thread(scenario); });
      on_one_thread(scenario);
      other.join();
    }
  }
}

inline asio::any_io_executor strand_of(const asio::any_io_executor& executor) { return asio::make_strand(executor); }

/// Runs a scenario in a strand: a scenario that cancels must do so where the cancelled coroutine runs.
inline asio::awaitable<void> in_strand(Scenario scenario) {
  co_await asio::co_spawn(strand_of(co_await asio::this_coro::executor), scenario(), asio::use_awaitable);
}

/// Until it holds; looks every millisecond.
template <class Condition>
asio::awaitable<bool> soon(Condition condition, Duration bound = 10s) {
  for (const auto until = Clock::now() + bound; !condition();) {
    if (Clock::now() > until) co_return false;
    co_await pause_for(1ms);
  }
  co_return true;
}

/// Until the reaper has told of the end of our child: it has, once it has seen the end of one that was started after
/// that. Nobody waits for that one, whose context would otherwise see it as well.
inline void await_told_end(pid_t pid) {
  const auto pass = [] { ::poll(nullptr, 0, 1); };
  while (::kill(pid, 0) == 0) pass();
  const Command command = child({});
  const Process later = Process::spawn(command);
  while (later.running()) pass();
}

/// No call runs or waits any more.
inline asio::awaitable<bool> until_idle(WorkerPool& pool) {
  co_return co_await soon([&] { return pool.stats().in_flight == 0 && pool.stats().queued == 0; });
}

/// A folder for one test.
class Folder {
 public:
  Folder() {
    std::string name = (std::filesystem::temp_directory_path() / "drover-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp");
    path_ = name;
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() { std::filesystem::remove_all(path_); }
  std::string file(const std::string& name) const { return (path_ / name).string(); }
  std::vector<int> numbers(const std::string& name) const {
    std::ifstream in(path_ / name);
    return {std::istream_iterator<int>(in), {}};
  }

 private:
  std::filesystem::path path_;
};

/// Keeps events, in their order.
class EventLog {
 public:
  std::function<void(const Event&)> handler() {
    return [state = state_](const Event& event) {
      const std::lock_guard held(state->mutex);
      state->events.push_back(event);
    };
  }
  std::vector<Event> all() const {
    const std::lock_guard held(state_->mutex);
    return state_->events;
  }
  std::size_t count(Event::Kind kind) const {
    const auto events = all();
    return static_cast<std::size_t>(
        std::count_if(events.begin(), events.end(), [&](auto& e) { return e.kind == kind; }));
  }

 private:
  struct State {
    std::mutex mutex;
    std::vector<Event> events;
  };
  std::shared_ptr<State> state_ = std::make_shared<State>();
};

/// Where calls and pools are tested. What outlives a scenario has to end soon after it.
class Calls : public Workers {
 protected:
  void TearDown() override {
    EXPECT_TRUE(soon_childless(8s));
    Workers::TearDown();
  }
};
class CallsAnywhere : public Calls, public ::testing::WithParamInterface<Where> {
 protected:
  void run_scenario(const Scenario& scenario) { run_where(GetParam(), scenario); }
  void run_in_strand(const Scenario& scenario) {
    run_scenario([&] { return in_strand(scenario); });
  }
};

}  // namespace support
