// A worker for tests of what a worker knows of itself and of its calls, and of its hooks. Its arguments are steps on
// the way to serve().
#include <chrono>
#include <cstdlib>
#include <functional>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <tuple>
#include <unistd.h>
#include <vector>

#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/steady_timer.hpp>
#include <asio/this_coro.hpp>
#include <asio/use_awaitable.hpp>

#include <drover/worker/serve.hpp>
#include <drover/worker/this_worker.hpp>

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
  while (at < argc)
    if (!add_hook(routines, next(), next)) leave(96);
  const int code = drover::serve(routines);
  say("served");
  return code;
}
