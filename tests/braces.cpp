// Options in braces inside a `co_await` expression: GCC 12 copies the members of such temporaries bytewise. The tests
// are built without and with optimisation.
#include <chrono>
#include <exception>
#include <filesystem>
#include <gtest/gtest.h>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include <asio/io_context.hpp>
#include <asio/use_awaitable.hpp>

#include <drover/pool/local_worker.hpp>
#include <drover/pool/worker_pool.hpp>
#include <drover/pool/worker_process.hpp>
#include <drover/resource_pool.hpp>

#include "support/calls.hpp"
#include "support/streams.hpp"
#include "support/typed_routines.hpp"

namespace {

using namespace support;

class BracedOptions : public Calls {};

const std::string long_text(100, 'n');

/// Reads all members of its options, as a function of the library does.
asio::awaitable<std::string> text_of(drover::CallOptions given) {
  const drover::CallOptions options(std::move(given));
  std::string text = options.deadline ? std::to_string(options.deadline->count()) : "none";
  for (const auto& tag : options.tags) text += " " + tag;
  if (!options.context.empty()) text += " in " + options.context;
  if (options.run_for) text += " runs " + std::to_string(options.run_for->count());
  if (options.retry.attempts != 1)
    text += " retry " + std::to_string(options.retry.attempts) + "/" + std::to_string(options.retry.backoff.count());
  if (!options.key.empty()) text += " key " + options.key;
  if (options.priority != 1) text += " priority " + std::to_string(options.priority);
  if (options.when_full == drover::WhenFull::wait) text += " waits";
  co_return text;
}

asio::awaitable<std::string> text_of(drover::PoolOptions options) {
  const drover::WorkerOptions& worker = options.worker;
  std::string text = std::to_string(options.size) + " " + worker.name + " " + worker.command.program.string();
  for (const auto& argument : worker.command.args) text += " " + argument;
  for (const auto& [name, value] : worker.command.env) text += " " + name + "=" + value.value_or("");
  for (const auto& tag : worker.tags) text += " " + tag;
  for (const auto& [key, value] : worker.extra) text += " " + key + "=" + value;
  co_return text;
}

TEST_F(BracedOptions, ForACallKeepTheirMembers) {
  on_one_thread([]() -> asio::awaitable<void> {
    for (int round = 0; round < 3; ++round) {
      const std::string plain = co_await text_of({.deadline = 2ns});
      EXPECT_EQ(plain, "2");
      const std::string empty_tags = co_await text_of({.deadline = 2ns, .tags = {}});
      EXPECT_EQ(empty_tags, "2");
      const std::set<std::string> tags{"gpu", long_text};
      const std::string all = co_await text_of({.deadline = 3ns, .kill_after = 1s, .tags = tags});
      EXPECT_EQ(all, "3 gpu " + long_text);
      const std::string with_context = co_await text_of({.deadline = 4ns, .context = long_text});
      EXPECT_EQ(with_context, "4 in " + long_text);
    }
  });
}

TEST_F(BracedOptions, ForACallKeepKeyAndRetry) {
  on_one_thread([]() -> asio::awaitable<void> {
    for (int round = 0; round < 3; ++round) {
      const std::string keyed = co_await text_of({.key = long_text});
      EXPECT_EQ(keyed, "none key " + long_text);
      const std::string short_key = co_await text_of({.key = "k"});
      EXPECT_EQ(short_key, "none key k");
      const std::string again = co_await text_of({.run_for = 5ns, .retry = {.attempts = 3, .backoff = 7ns}});
      EXPECT_EQ(again, "none runs 5 retry 3/7");
      const std::string urgent = co_await text_of({.priority = 3, .when_full = drover::WhenFull::wait});
      EXPECT_EQ(urgent, "none priority 3 waits");
      const std::set<std::string> tags{"gpu", long_text};
      const std::string all = co_await text_of({.deadline = 6ns,
                                                .run_for = 5ns,
                                                .retry = {.attempts = 2},
                                                .key = long_text,
                                                .priority = 0,
                                                .when_full = drover::WhenFull::wait,
                                                .tags = tags,
                                                .context = long_text});
      EXPECT_EQ(all,
                "6 gpu " + long_text + " in " + long_text + " runs 5 retry 2/0 key " + long_text + " priority 0 waits");
    }
  });
}

TEST_F(BracedOptions, ForAPoolKeepTheirMembers) {
  on_one_thread([]() -> asio::awaitable<void> {
    for (int round = 0; round < 3; ++round) {
      const std::string plain = co_await text_of(drover::PoolOptions{.size = 4});
      EXPECT_EQ(plain, "4 worker /proc/self/exe");
      const std::string named = co_await text_of({.size = 4, .worker = {.name = "short"}});
      EXPECT_EQ(named, "4 short /proc/self/exe");
      const std::map<std::string, std::string> extra{{"zone", long_text}};
      const std::vector<std::string> args{"a", long_text};
      const std::string all = co_await text_of({.size = 2,
                                                .worker = {.name = long_text,
                                                           .command = {.program = "/bin/true", .args = args},
                                                           .tags = std::set<std::string>(),
                                                           .extra = extra}});
      EXPECT_EQ(all, "2 " + long_text + " /bin/true a " + long_text + " zone=" + long_text);
    }
  });
}

TEST_F(BracedOptions, WorkInACall) {
  on_one_thread([]() -> asio::awaitable<void> {
    drover::LocalWorker worker(co_await asio::this_coro::executor, call_worker());
    co_await worker.start();
    for (int i = 0; i < 3; ++i) {
      const int first = co_await worker.call<int>({.deadline = 20s}, "square", i);
      const int second = co_await worker.call<int>({.deadline = 20s, .tags = {}}, "square", i);
      const int third = co_await worker.call<int>({}, "square", i);
      EXPECT_EQ(std::vector({first, second, third}), std::vector({i * i, i * i, i * i}));
    }
    co_await worker.stop();
  });
}

TEST_F(BracedOptions, WorkWithKeyAndRetryInACall) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(call_pool(2));
    const int home = co_await pool.call<int>({.key = long_text}, "pid");
    for (int i = 0; i < 3; ++i) {
      const int again = co_await pool.call<int>({.run_for = 20s, .key = long_text}, "pid");
      EXPECT_EQ(again, home);
      const int first = co_await pool.call<int>({.retry = {.attempts = 3, .backoff = 1ms}}, "square", i);
      const int second = co_await pool.call<int>({.priority = 3, .when_full = drover::WhenFull::wait}, "square", i);
      EXPECT_EQ(std::vector({first, second}), std::vector({i * i, i * i}));
      const int words = co_await pool.call({.key = long_text, .priority = 2}, word_count, "one two");
      EXPECT_EQ(words, 2);
    }
    co_await pool.stop();
  });
}

TEST_F(BracedOptions, WorkInABroadcast) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(call_pool(2));
    const std::set<std::string> tags;
    for (int i = 0; i < 3; ++i) {
      const auto squares = co_await pool.broadcast<int>({.deadline = 20s, .context = long_text}, "square", i);
      EXPECT_EQ(squares.size(), 2u);
      for (const auto& square : squares) EXPECT_EQ(square.value(), i * i);
      const auto words = co_await pool.broadcast({.run_for = 20s, .tags = tags}, word_count, "one two");
      EXPECT_EQ(words.size(), 2u);
      for (const auto& count : words) EXPECT_EQ(count.value(), 2);
    }
    co_await pool.stop();
  });
}

TEST_F(BracedOptions, WorkInAStream) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(stream_pool(1));
    for (int round = 0; round < 3; ++round) {
      auto items = pool.stream<long, int>({.deadline = 20s, .key = long_text}, "count", 3);
      const int read = co_await read_all(items);
      EXPECT_EQ(read, 3);
      const long untyped = co_await pool.stream<long, int>({.run_for = 20s, .key = long_text}, "count", 4).result();
      EXPECT_EQ(untyped, 6);
      const long typed = co_await pool.stream({.key = long_text, .priority = 2}, count_items, 5).result();
      EXPECT_EQ(typed, 10);
    }
    co_await pool.stop();
  });
}

TEST_F(BracedOptions, WorkInAMap) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(call_pool(2));
    const std::vector<int> inputs{3, 4, 5};
    const std::vector<std::string> texts{"one", "one two", long_text};
    for (int round = 0; round < 3; ++round) {
      auto counts = pool.map({.call = {.retry = {.attempts = 3}}}, word_count, texts);
      int words = 0;
      for (;;) {
        auto done = co_await counts.next();
        if (!done) break;
        words += done->value();
      }
      EXPECT_EQ(words, 4);
      auto square = co_await pool
                        .map<int>({.in_flight = 2, .ordered = true, .call = {.deadline = 20s, .key = long_text}},
                                  "square", inputs)
                        .next();
      EXPECT_TRUE(square && square->value() == 9);
    }
    co_await pool.stop();
  });
}

TEST_F(BracedOptions, WorkInAnAsyncCall) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(call_pool(1));
    LocalWorker worker(co_await asio::this_coro::executor, call_worker());
    co_await worker.start();
    const std::string text = long_text + " " + long_text;
    for (int i = 0; i < 3; ++i) {
      const int first = co_await pool.async_call<int>({.deadline = 20s, .retry = {.attempts = 2}, .key = long_text},
                                                      "square", i, asio::use_awaitable);
      const int second =
          co_await worker.async_call<int>({.run_for = 20s, .context = long_text}, "square", i, asio::use_awaitable);
      EXPECT_EQ(std::vector({first, second}), std::vector({i * i, i * i}));
      const int typed = co_await pool.async_call({.key = long_text}, word_count, text, asio::use_awaitable);
      EXPECT_EQ(typed, 2);
    }
    co_await worker.stop();
    co_await pool.stop();
  });
}

TEST_F(BracedOptions, WorkInATypedCall) {
  on_one_thread([]() -> asio::awaitable<void> {
    const drover::Command command = call_worker().command;
    WorkerPool pool = co_await WorkerPool::start({.size = 1, .worker = {.name = "x", .command = command}});
    LocalWorker worker(co_await asio::this_coro::executor, call_worker());
    co_await worker.start();
    const std::string text = long_text + " " + long_text;
    const std::set<std::string> tags;
    for (int i = 0; i < 3; ++i) {
      const int first = co_await pool.call({.deadline = 20s}, word_count, text);
      const int second = co_await pool.call({.deadline = 20s, .kill_after = 1s, .tags = tags}, word_count, text);
      const int third = co_await worker.call({.deadline = 20s, .context = long_text}, word_count, "one two");
      const int fourth = co_await worker.call({}, word_count, text);
      EXPECT_EQ(std::vector({first, second, third, fourth}), std::vector(4, 2));
      co_await pool.call({.inherit_deadline = false}, do_nothing);
    }
    co_await worker.stop();
    co_await pool.stop();
  });
}

TEST_F(BracedOptions, WorkInAWorkersConstructor) {
  on_one_thread([]() -> asio::awaitable<void> {
    const asio::any_io_executor executor = co_await asio::this_coro::executor;
    const drover::Command command = call_worker().command;
    const auto start = [](drover::WorkerProcess worker) -> asio::awaitable<std::string> {
      const drover::WorkerMetadata metadata = co_await worker.start();
      co_await worker.reap(0s);
      co_return metadata.name;
    };
    const std::string name = co_await start(drover::WorkerProcess(executor, {.name = long_text, .command = command}));
    EXPECT_EQ(name, long_text);
  });
}

TEST_F(BracedOptions, WorkInAPoolsStart) {
  on_one_thread([]() -> asio::awaitable<void> {
    const drover::Command command = call_worker().command;
    drover::WorkerPool pool =
        co_await drover::WorkerPool::start({.size = 1, .worker = {.name = "x", .command = command}});
    const int answer = co_await pool.call<int>("square", 3);
    EXPECT_EQ(answer, 9);
    co_await pool.stop();
    const int nine = co_await drover::with_pool(
        {.size = 1, .worker = {.name = long_text, .command = command}},
        [](drover::WorkerPool& other) -> asio::awaitable<int> { co_return co_await other.call<int>("square", 3); });
    EXPECT_EQ(nine, 9);
  });
}

TEST_F(BracedOptions, WorkInAPoolsReload) {
  on_one_thread([]() -> asio::awaitable<void> {
    const std::string program = call_worker().command.program.string();
    const std::vector<std::string> args{"sleep", "1"};
    WorkerPool pool = co_await WorkerPool::start(call_pool(1));
    for (int round = 0; round < 2; ++round) {
      const drover::ReloadReport report = co_await pool.reload({.program = program, .args = args});
      EXPECT_EQ(report.replaced, 1u);
      const int answer = co_await pool.call<int>({.deadline = 20s}, "square", 3);
      EXPECT_EQ(answer, 9);
    }
    const auto reports = co_await pool.stop({.drain_queue = true});
    EXPECT_EQ(reports.size(), 1u);
  });
}

TEST_F(BracedOptions, WorkInAPoolsStop) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(call_pool(1));
    auto first = pool.call<std::string>("doze", 20), second = pool.call<std::string>("doze", 20);
    const auto reports = co_await pool.stop({.drain_queue = true, .grace = 30s});
    EXPECT_EQ(reports.size(), 1u);
    EXPECT_EQ(co_await std::move(first), "slept");
    EXPECT_EQ(co_await std::move(second), "slept");
    WorkerPool other = co_await WorkerPool::start(call_pool(1));
    auto cancelled = other.call<std::string>("doze", 30000);
    co_await other.stop({.grace = 0s});
    EXPECT_TRUE(co_await failure_of(std::move(cancelled)) == Errc::stopping);
  });
}

TEST_F(BracedOptions, WorkInASpawnAndAReap) {
  on_one_thread([]() -> asio::awaitable<void> {
    const std::vector<std::string> args{"-c", "exit 3"};
    const drover::ExitStatus status = co_await drover::Process::spawn({.program = "/bin/sh", .args = args}).wait();
    EXPECT_EQ(status.value, 3);
    drover::Process other = drover::Process::spawn({.program = "sleep", .args = {"60"}});
    const drover::ReapReport report = co_await other.reap({.patience = 0s, .term_grace = 10s});
    EXPECT_TRUE(report.terminated);
  });
}

TEST_F(BracedOptions, WorkInAResourcePoolsConstructor) {
  on_one_thread([]() -> asio::awaitable<void> {
    using Pool = drover::ResourcePool<int, std::string>;
    int finalized = 0, events = 0, errors = 0;
    const auto make = [](int key) { return key < 0 ? throw 1 : std::string(100, 'v'); };
    const auto finalize = [&](std::string&) -> asio::awaitable<void> {
      ++finalized;
      throw 2;
      co_return;
    };
    const auto on_event = [&](const Pool::Event&) { ++events; };
    const auto on_error = [&](std::exception_ptr) { ++errors; };
    for (int round = 0; round < 3; ++round) {
      Pool pool(co_await asio::this_coro::executor, make,
                {.finalizer = finalize, .on_error = on_error, .on_event = on_event});
      Pool::Lease lease = co_await pool.acquire(round);
      EXPECT_EQ(lease->size(), 100u);
      co_await lease.release();
    }
    EXPECT_EQ(finalized, 3);
    EXPECT_EQ(errors, 3);
    EXPECT_GE(events, 3);
  });
}

}  // namespace
