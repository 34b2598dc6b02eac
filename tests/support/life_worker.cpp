// A worker for tests of what a worker knows of itself and of its calls, and of its hooks. Its arguments are steps on
// the way to serve().
#include <chrono>
#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <system_error>
#include <thread>
#include <tuple>
#include <unistd.h>
#include <vector>

#include <asio/cancellation_state.hpp>
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/post.hpp>
#include <asio/redirect_error.hpp>
#include <asio/steady_timer.hpp>
#include <asio/strand.hpp>
#include <asio/this_coro.hpp>
#include <asio/use_awaitable.hpp>

#include <drover/pool/local_worker.hpp>
#include <drover/run.hpp>
#include <drover/worker/serve.hpp>
#include <drover/worker/this_call.hpp>
#include <drover/worker/this_worker.hpp>

#include "support/call_seen.hpp"
#include "support/worker_routines.hpp"

namespace {

using support::leave;
using support::say;

bool refuses_to_know() {
  try {
    drover::this_worker::slot();
  } catch (const std::logic_error&) {
    return true;
  }
  return false;
}

void add_self(drover::Routines& routines) {
  namespace self = drover::this_worker;
  routines.add("slot", [] { return self::slot(); })
      .add("name", [] { return self::name(); })
      .add("tags", [] { return self::tags(); })
      .add("extra", [] { return self::extra(); })
      .add("self",
           [] {
             const char* const variable = std::getenv("DROVER_SLOT");
             return std::tuple(static_cast<int>(::getpid()), self::slot(), std::string(variable ? variable : "none"));
           })
      .add("variable", [](std::string name) {
        const char* const value = std::getenv(name.c_str());
        return std::string(value == nullptr ? "none" : value);
      });
}

asio::awaitable<void> wait_for(int milliseconds) {
  asio::steady_timer timer(co_await asio::this_coro::executor, std::chrono::milliseconds(milliseconds));
  co_await timer.async_wait(asio::use_awaitable);
}

int ticks = 0;
asio::awaitable<void> tick() {
  for (;; ++ticks) co_await wait_for(1);
}

// ---- calls ----------------------------------------------------------------------------------------------------------

namespace call = drover::this_call;

std::string reason_name() {
  switch (call::reason()) {
    case drover::CancelReason::none: return "none";
    case drover::CancelReason::caller: return "caller";
    case drover::CancelReason::deadline: return "deadline";
    case drover::CancelReason::stop: return "stop";
    case drover::CancelReason::parent_died: return "parent died";
  }
  return "nonsense";
}

/// Milliseconds until the deadline of the call; -1 if there is none.
std::int64_t time_left() {
  const auto deadline = call::deadline();
  if (!deadline) return -1;
  return std::chrono::ceil<std::chrono::milliseconds>(*deadline - drover::Clock::now()).count();
}

support::CallSeen seen() { return {std::string(call::context()), time_left(), call::attempt()}; }

/// What it sees after many waits, if that has been the same all the time.
asio::awaitable<support::CallSeen> look_often(int rounds) {
  const std::string context(call::context());
  const auto deadline = call::deadline();
  for (int i = 0; i < rounds; ++i) {
    co_await wait_for(i % 3);
    if (call::context() != context || call::deadline() != deadline || call::attempt() != 1)
      co_return support::CallSeen{};
  }
  co_return seen();
}

/// The same by coroutines that it spawns, one on its executor and one on a strand.
asio::awaitable<support::CallSeen> look_by_others(int rounds) {
  const auto executor = co_await asio::this_coro::executor;
  const auto first = co_await asio::co_spawn(executor, look_often(rounds), asio::use_awaitable);
  const auto strand = asio::make_strand(executor);
  const auto second = co_await asio::co_spawn(strand, look_often(rounds), asio::use_awaitable);
  if (first.context != second.context || second.attempt != 1) co_return support::CallSeen{};
  co_return seen();
}

/// Sleeps until it is cancelled, and says why.
asio::awaitable<void> nap_with_reason() {
  say("napping, " + reason_name());
  asio::steady_timer timer(co_await asio::this_coro::executor, std::chrono::seconds(30));
  std::error_code ec;
  co_await timer.async_wait(asio::redirect_error(asio::use_awaitable, ec));
  say("woken by " + reason_name());
  if (ec) throw std::system_error(ec);
}

/// Blocks the main thread until there is a reason.
void block_until_reason() {
  say("blocking");
  while (call::reason() == drover::CancelReason::none) std::this_thread::yield();
  say("ended by " + reason_name());
}

std::optional<support::CallSeen> seen_afterwards;

/// Goes on when its call has ended.
asio::awaitable<void> outlive() {
  co_await wait_for(20);
  for (int i = 0; i < 3; ++i) co_await wait_for(1);
  seen_afterwards = seen();
}

asio::awaitable<void> leave_behind() { asio::co_spawn(co_await asio::this_coro::executor, outlive(), asio::detached); }

/// A worker of this worker, started by the first call that needs it.
std::unique_ptr<drover::LocalWorker> nested_worker;

asio::awaitable<void> start_nested() {
  if (nested_worker) co_return;
  drover::WorkerOptions options;
  options.command.out = drover::Stdio::null();
  nested_worker = std::make_unique<drover::LocalWorker>(co_await asio::this_coro::executor, options);
  co_await nested_worker->start();
}

/// Calls inherit the deadline, unless told otherwise, and may have one of their own.
asio::awaitable<support::CallSeen> ask_nested(int inherits, int own_milliseconds) {
  co_await start_nested();
  drover::CallOptions options;
  options.inherit_deadline = inherits != 0;
  if (own_milliseconds != 0) options.deadline = std::chrono::milliseconds(own_milliseconds);
  co_return co_await nested_worker->call<support::CallSeen>(options, "seen");
}

asio::awaitable<support::CallSeen> ask_once() {
  drover::WorkerOptions options;
  options.command.out = drover::Stdio::null();
  drover::LocalWorker nested(co_await asio::this_coro::executor, options);
  co_await nested.start();
  const auto answer = co_await nested.call<support::CallSeen>("seen");
  co_await nested.stop();
  co_return answer;
}

/// The nested call takes longer than there is time.
asio::awaitable<std::string> nap_nested() {
  co_await asio::this_coro::reset_cancellation_state(asio::disable_cancellation());
  std::string text = "it has slept";
  try {
    co_await nested_worker->call("nap", 30000, 0);
  } catch (const std::exception& error) {
    text = error.what();
  }
  say(text);
  co_return text;
}

/// Blocks the main thread, between two waits.
/// Ends at once. A handler that it has posted posts another one, which blocks the loop before the result is sent.
asio::awaitable<void> leave_blocker(int milliseconds) {
  const auto executor = co_await asio::this_coro::executor;
  asio::post(executor,
             [executor, milliseconds] { asio::post(executor, [milliseconds] { support::pass(milliseconds); }); });
}

asio::awaitable<void> block_after(int wait_milliseconds, int block_milliseconds) {
  co_await wait_for(wait_milliseconds);
  say("blocking");
  support::pass(block_milliseconds);
  co_await wait_for(1);
}

/// The same when its call has ended.
asio::awaitable<void> block_behind(int wait_milliseconds, int block_milliseconds) {
  asio::co_spawn(co_await asio::this_coro::executor, block_after(wait_milliseconds, block_milliseconds),
                 asio::detached);
}

void add_calls(drover::Routines& routines) {
  routines.add("seen", seen)
      .add("look_often", look_often)
      .add("look_by_others", look_by_others)
      .add("nap_with_reason", nap_with_reason)
      .add("block_until_reason", block_until_reason)
      .add("block_with_token",
           [](std::stop_token stop) {
             say("blocking");
             while (!stop.stop_requested()) std::this_thread::yield();
             const std::string reason = reason_name();
             say("ended by " + reason);
             return reason;
           })
      .add("reason", reason_name)
      .add("block_after", block_after)
      .add("leave_blocker", leave_blocker)
      .add("block_behind", block_behind)
      .add("seen_elsewhere",
           [] {
             support::CallSeen there;
             std::thread([&] { there = seen(); }).join();
             return there;
           })
      .add("leave_behind", leave_behind)
      .add("seen_afterwards", [] { return seen_afterwards; })
      .add("start_nested", start_nested)
      .add("ask_nested", ask_nested)
      .add("ask_nested_inside", [] { return drover::run(ask_once()); })
      .add("nap_nested", nap_nested);
}

// ---- hooks ----------------------------------------------------------------------------------------------------------

/// A step "start-..." adds an on_start(), a step "stop-..." an on_stop().
bool add_hook(drover::Routines& routines, const std::string& step, const std::function<std::string()>& next) {
  const std::string kind = step.substr(step.find('-') + 1);
  if (step == "start-info") {
    routines.on_start([](const drover::WorkerInfo& worker) -> asio::awaitable<void> {
      co_await wait_for(100);
      say("started " + worker.name + " " + std::to_string(worker.slot) + " " + std::to_string(worker.tags.size()));
    });
  } else if (step == "start-throw") {
    routines.on_start([text = next()] { throw std::runtime_error(text); });
  } else if (step == "start-throw-later") {
    routines.on_start([text = next()](drover::WorkerInfo) -> asio::awaitable<void> {
      co_await wait_for(10);
      throw std::invalid_argument(text);
    });
  } else if (step == "start-throw-int") {
    routines.on_start([] { throw 7; });
  } else if (step == "start-throw-long") {
    routines.on_start([] { throw std::runtime_error(std::string(1'000'000, 'x')); });
  } else if (step == "start-throw-if") {  // a file exists
    routines.on_start([path = next()] {
      if (::access(path.c_str(), F_OK) == 0) throw std::runtime_error("no GPU is left");
    });
  } else if (step == "start-ticker") {
    routines.on_start(
        []() -> asio::awaitable<void> { asio::co_spawn(co_await asio::this_coro::executor, tick(), asio::detached); });
    routines.add("ticks", [] { return ticks; });
  } else if (step == "start-block-later") {  // once it serves
    routines.on_start(
        [milliseconds = std::stoi(next())]() -> asio::awaitable<void> { co_await block_behind(200, milliseconds); });
  } else if (kind == "say") {
    const auto speak = [text = next()] { say(text); };
    step == "start-say" ? routines.on_start(speak) : routines.on_stop(speak);
  } else if (kind == "block" || kind == "spin") {
    const auto block = [spins = kind == "spin"] {
      say("blocking");
      spins ? support::spin() : support::pass(30000);
    };
    step.starts_with("start-") ? routines.on_start(block) : routines.on_stop(block);
  } else if (kind == "await") {
    const auto wait = [milliseconds = std::stoi(next())]() -> asio::awaitable<void> {
      say("awaiting");
      co_await wait_for(milliseconds);
      say("awaited");
    };
    step == "start-await" ? routines.on_start(wait) : routines.on_stop(wait);
  } else if (step == "stop-throw") {
    routines.on_stop([text = next()] { throw std::runtime_error(text); });
  } else if (step == "stop-throw-later") {
    routines.on_stop([]() -> asio::awaitable<void> {
      co_await wait_for(1);
      throw 7;
    });
  } else {
    return false;
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  int at = 1;
  const auto next = [&]() -> std::string {
    if (at >= argc) leave(98);
    return argv[at++];
  };
  if (argc > 1 && std::string(argv[1]) == "ask-early") {
    say(refuses_to_know() ? "unknown" : "known");
    ++at;
  }
  if (!drover::in_worker()) leave(refuses_to_know() ? 42 : 43);
  drover::Routines routines = support::worker_routines();
  add_self(routines);
  add_calls(routines);
  while (at < argc)
    if (!add_hook(routines, next(), next)) leave(96);
  const int code = drover::serve(routines);
  say("served");
  return code;
}
