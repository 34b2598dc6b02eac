// What a worker knows of itself: its slot, its name, its tags, its notes.
#include <gtest/gtest.h>
#include <map>
#include <set>
#include <signal.h>
#include <string>
#include <tuple>
#include <vector>

#include <asio/io_context.hpp>

#include <drover/worker/this_worker.hpp>

#include "support/life.hpp"

namespace {

using namespace support;

class ThisWorker : public Calls {};

// Texts of every kind arrive as they are: NUL, spaces, line breaks, no UTF-8.
TEST_F(ThisWorker, KnowsItsOptions) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerOptions options = life_worker();
    options.name = "the first, with spaces";
    options.tags = {"gpu", "a b", "", std::string("nul\0 inside", 11)};
    options.extra = {{"zone", "north"}, {"odd", "%20=\n\xff"}, {"empty", ""}, {std::string("\0", 1), "x"}};
    LocalWorker worker(co_await asio::this_coro::executor, options);
    co_await worker.start();
    EXPECT_EQ(worker.metadata().slot, 0u);
    EXPECT_EQ(co_await worker.call<std::size_t>("slot"), 0u);
    EXPECT_EQ(co_await worker.call<std::string>("name"), options.name);
    EXPECT_EQ(co_await worker.call<std::set<std::string>>("tags"), options.tags.value());
    const auto extra = co_await worker.call<std::map<std::string, std::string>>("extra");
    EXPECT_EQ(extra, options.extra.value());
    EXPECT_EQ(co_await worker.call<std::string>("variable", "DROVER_SLOT"), "0");
    EXPECT_EQ(co_await worker.call<std::string>("variable", "DROVER_WORKER"), "none");
    co_await worker.stop();
  });
}

// Every worker of a pool has another slot. A replacement has the slot of its predecessor.
TEST_F(ThisWorker, KnowsItsSlotInThePool) {
  on_one_thread([]() -> asio::awaitable<void> {
    PoolOptions options = call_pool(3);
    options.worker = life_worker();
    options.worker.command.env["DROVER_SLOT"] = "17";  // drover's comes last
    WorkerPool pool = co_await WorkerPool::start(options);
    std::map<pid_t, std::size_t> slots;
    std::set<std::size_t> all;
    for (const auto& worker : pool.workers()) slots[worker.pid] = worker.slot, all.insert(worker.slot);
    EXPECT_EQ(all, (std::set<std::size_t>{0, 1, 2}));
    for (int i = 0; i < 12; ++i) {
      const auto [pid, slot, variable] = co_await pool.call<std::tuple<int, std::size_t, std::string>>("self");
      EXPECT_EQ(slots.at(pid), slot);
      EXPECT_EQ(variable, std::to_string(slot));
    }
    const pid_t killed = pool.workers().at(1).pid;
    const std::size_t slot = slots.at(killed);
    ::kill(killed, SIGKILL);
    const auto replaced = [&] {
      const auto workers = pool.workers();
      return workers.size() == 3 &&
             std::none_of(workers.begin(), workers.end(), [&](auto& w) { return w.pid == killed; });
    };
    EXPECT_TRUE(co_await soon(replaced));
    for (const auto& worker : pool.workers()) EXPECT_TRUE(slots.count(worker.pid) != 0 || worker.slot == slot);
    co_await pool.stop();
  });
}

// Elsewhere, and before in_worker(), there is nothing to know.
TEST_F(ThisWorker, IsALogicErrorElsewhere) {
  EXPECT_THROW((void)drover::this_worker::info(), std::logic_error);
  EXPECT_THROW((void)drover::this_worker::slot(), std::logic_error);
  EXPECT_THROW((void)drover::this_worker::name(), std::logic_error);
  EXPECT_THROW((void)drover::this_worker::tags(), std::logic_error);
  EXPECT_THROW((void)drover::this_worker::extra(), std::logic_error);
  run_together({[]() -> asio::awaitable<void> {
    const WorkerOptions options = life_worker({"ask-early"});
    const Started s = co_await started(options);
    co_await said(s.pipe, "unknown");
    co_await s.worker->stop();
  }});
}

// What does not fit into an environment variable is an error that names the options, before a process is spawned.
TEST_F(ThisWorker, RefusesWhatAnEnvironmentCannotHold) {
  asio::io_context context;
  const auto refusal = [&](auto change) {
    WorkerOptions options = life_worker();
    change(options);
    LocalWorker worker(context.get_executor(), options);
    const Failure failure = run(context, failure_of(worker.start()));
    EXPECT_EQ(worker.pid() == 0, static_cast<bool>(failure)) << failure;
    if (!failure) run(context, worker.stop());
    return failure;
  };
  constexpr std::size_t most = 126 * 1024;
  for (const Failure& failure :
       {refusal([](WorkerOptions& o) { o.tags = {std::string(2 * most, 't')}; }), refusal([](WorkerOptions& o) {
          o.extra = {{"k", std::string(most / 3, '\0')}, {"l", std::string(most / 3, ' ')}};
        }),
        refusal([](WorkerOptions& o) { o.name = std::string(2 * most, 'n'); })}) {
    EXPECT_TRUE(failure.argument) << failure;
    EXPECT_NE(failure.text.find("WorkerOptions::tags"), std::string::npos) << failure;
    EXPECT_NE(failure.text.find("WorkerOptions::extra"), std::string::npos) << failure;
  }
  EXPECT_FALSE(refusal([](WorkerOptions& o) { o.extra = {{"k", std::string(most, 'v')}}; }));
  PoolOptions options = call_pool(1);
  options.worker.tags = {std::string(2 * most, 't')};
  EXPECT_TRUE(run(context, failure_of(WorkerPool::start(options))).argument);
}

}  // namespace
