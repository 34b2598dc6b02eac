// A program that has workers and is killed by the test. Its arguments are steps, done one after the other on the loop;
// it then goes on until it is killed. What it and its workers say comes on its stdout.
#include <cstdlib>
#include <memory>
#include <sched.h>
#include <signal.h>
#include <string>
#include <sys/mount.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include <asio/awaitable.hpp>
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/io_context.hpp>
#include <asio/signal_set.hpp>
#include <asio/steady_timer.hpp>
#include <asio/use_awaitable.hpp>

#include <drover/pool/local_worker.hpp>
#include <drover/pool/worker_pool.hpp>
#include <drover/run.hpp>
#include <drover/worker/serve.hpp>

#include "support/worker_routines.hpp"

namespace {

using drover::LocalWorker;
using support::say;

std::vector<std::string> steps;

/// Says the program's own pid, and forks a copy of it that does nothing but live on with all that is open.
void fork_copy() {
  const pid_t copy = ::fork();
  if (copy == 0) {
    ::alarm(60);
    for (;;) ::pause();
  }
  ::setpgid(copy, copy);  // what kills our group must not kill it
  say("copy " + std::to_string(copy));
}

/// A worker, or a program further down that is started as one.
drover::WorkerOptions worker(std::vector<std::string> boot_steps, std::chrono::milliseconds grace) {
  drover::WorkerOptions options;
  options.command.program = DROVER_HELPER_WORKER;
  options.command.args = std::move(boot_steps);
  options.shutdown_grace = grace;
  options.max_in_flight = 8;
  options.on_event = [](const drover::Event& event) {
    if (event.kind == drover::Event::Kind::spawned) say("worker " + std::to_string(event.pid));
    if (event.kind == drover::Event::Kind::ready) say("ready");
  };
  return options;
}

/// Runs the steps; the workers live in `workers`.
asio::awaitable<void> go(std::vector<std::string> list,
                         std::shared_ptr<std::vector<std::shared_ptr<LocalWorker>>> workers) {
  const auto executor = co_await asio::this_coro::executor;
  auto at = list.begin();
  const auto next = [&]() -> std::string {
    if (at == list.end()) support::leave(98);
    return *at++;
  };
  std::chrono::milliseconds grace(10000);
  while (at != list.end()) {
    const std::string step = next();
    if (step == "grace") {
      grace = std::chrono::milliseconds(std::stoi(next()));
    } else if (step == "start") {
      workers->push_back(std::make_shared<LocalWorker>(executor, worker({}, grace)));
      co_await workers->back()->start();
    } else if (step == "start-many") {
      const int count = std::stoi(next());
      for (int i = 0; i < count; ++i) {
        workers->push_back(std::make_shared<LocalWorker>(executor, worker({}, grace)));
        co_await workers->back()->start();
      }
    } else if (step == "start-slowly") {  // it is killed meanwhile
      std::vector<std::string> boot_steps{"say", "booting", "sleep", "30000"};
      workers->push_back(std::make_shared<LocalWorker>(executor, worker(std::move(boot_steps), grace)));
      asio::co_spawn(executor, workers->back()->start(), asio::detached);
    } else if (step == "start-on-a-thread") {  // whose end the worker must not mind
      auto started = std::make_shared<LocalWorker>(executor, worker({}, grace));
      std::thread([started] {
        asio::io_context context;
        asio::co_spawn(context, started->start(), asio::detached);
        while (started->pid() == 0) context.run_one();
      }).join();
      workers->push_back(started);
    } else if (step == "call") {  // a routine without arguments
      asio::co_spawn(executor, workers->back()->call(next()), asio::detached);
    } else if (step == "call-with") {  // and one with a text
      const std::string routine = next(), text = next();
      asio::co_spawn(executor, workers->back()->call(routine, text), asio::detached);
    } else if (step == "nap") {
      asio::co_spawn(executor, workers->back()->call("nap", 30000, std::stoi(next())), asio::detached);
    } else if (step == "drain") {
      asio::co_spawn(executor, workers->back()->stop(std::nullopt), asio::detached);
    } else if (step == "fork") {
      fork_copy();
    } else if (step == "say") {
      say(next());
    } else {
      support::leave(96);
    }
  }
}

/// As a worker: has workers of its own, whatever they do.
asio::awaitable<void> nest(std::vector<std::string> list) {
  static auto workers = std::make_shared<std::vector<std::shared_ptr<LocalWorker>>>();
  co_await go(std::move(list), workers);
  asio::steady_timer never(co_await asio::this_coro::executor, std::chrono::hours(1));
  co_await never.async_wait(asio::use_awaitable);
}

/// Starts itself as a worker, which starts the workers that the steps say.
asio::awaitable<void> be_grandparent(std::vector<std::string> list) {
  drover::WorkerOptions options;
  options.name = "in the middle";
  options.shutdown_grace = std::chrono::milliseconds(500);
  LocalWorker middle(co_await asio::this_coro::executor, options);
  co_await middle.start();
  say("middle " + std::to_string(middle.pid()));
  co_await middle.call("nest", list);
}

int be_host(std::vector<std::string> list) {
  asio::io_context context;
  const auto forever = asio::make_work_guard(context);
  const auto workers = std::make_shared<std::vector<std::shared_ptr<LocalWorker>>>();
  const bool nested = !list.empty() && list.front() == "nested";
  if (nested) list.erase(list.begin());
  const auto fatal = [](std::exception_ptr thrown) {
    if (thrown) support::leave(95);
  };
  if (nested)
    asio::co_spawn(context, be_grandparent(std::move(list)), fatal);
  else
    asio::co_spawn(context, go(std::move(list), workers), fatal);
  context.run();
  return 0;
}

/// A pool whose workers are all in that routine, until a signal comes. Ends as run_main() does.
int be_pool(std::string routine) {
  drover::PoolOptions options;
  options.size = 2;
  options.worker = worker({}, std::chrono::milliseconds(10000));
  options.worker.term_grace = std::chrono::milliseconds(500);
  options.worker.stop_margin = std::chrono::milliseconds(500);
  options.worker.max_in_flight = 1;
  const auto body = [routine](drover::WorkerPool& pool) -> asio::awaitable<void> {
    auto first = pool.call(routine);
    auto second = pool.call(routine);
    co_await std::move(first);
    co_await std::move(second);
  };
  return drover::run_main(drover::with_pool(options, body));
}

/// Goes on in a new PID namespace, as a child of its first process. That one collects orphans, and says what is left.
int in_new_namespace(std::vector<std::string> list) {
  if (::unshare(CLONE_NEWPID) != 0 && ::unshare(CLONE_NEWUSER | CLONE_NEWPID) != 0) {
    say("forbidden");
    return 0;
  }
  const pid_t first = ::fork();
  if (first != 0) {
    int status = 0;
    ::waitpid(first, &status, 0);
    support::leave(WIFEXITED(status) ? WEXITSTATUS(status) : 94);  // LeakSanitizer works in none of these processes
  }
  ::alarm(60);
  say("inside");
  const pid_t host = ::fork();
  if (host == 0) return be_host(std::move(list));
  char byte = 0;
  if (::read(0, &byte, 1) != 1) return 93;  // the test says when
  ::kill(host, SIGKILL);
  for (;;) {
    const pid_t ended = ::waitpid(-1, nullptr, 0);
    if (ended < 0) break;
    if (ended != host) say("orphan ended");
  }
  say("all ended");
  support::leave(0);
}

}  // namespace

int main(int argc, char** argv) {
  if (drover::in_worker()) {
    drover::Routines routines = support::worker_routines();
    routines.add("nest", nest);
    return drover::serve(routines);
  }
  std::vector<std::string> list(argv + 1, argv + argc);
  const std::string mode = list.empty() ? "" : list.front();
  if (mode == "pool") return be_pool(list.at(1));
  if (mode == "namespace") {
    list.erase(list.begin());
    return in_new_namespace(std::move(list));
  }
  return be_host(std::move(list));
}
