// A program that ends by itself while it has workers in every state. It says the pids of its workers, and then its own.
// The first argument tells how it ends: its workers belong to main() (local), to the program (global) or to nobody
// (leaked), or it calls exit(). The second: they live, are deaf to SIGTERM, or a forked copy of it ends first; or it
// replaces itself, prepared for that or not, by a program that looks for the workers and ends.
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <signal.h>
#include <string>
#include <sys/wait.h>
#include <unistd.h>
#include <utility>
#include <vector>

#include <asio/awaitable.hpp>
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/io_context.hpp>
#include <asio/steady_timer.hpp>
#include <asio/this_coro.hpp>
#include <asio/use_awaitable.hpp>

#include <drover/os/exec.hpp>
#include <drover/pool/local_worker.hpp>
#include <drover/pool/worker_pool.hpp>

#include "support/worker_routines.hpp"

namespace {

using namespace std::chrono_literals;
using drover::LocalWorker;
using drover::WorkerPool;

struct Workers {
  asio::io_context context;
  LocalWorker idle, busy, stopped, starting;
  WorkerPool pool;
};

std::unique_ptr<Workers> global;

void expect(bool what, const char* text) {
  if (what) return;
  std::fprintf(stderr, "host: not so: %s\n", text);
  ::_exit(1);
}

void say(pid_t pid) { support::say(std::to_string(pid)); }

drover::WorkerOptions options(bool deaf) {
  drover::WorkerOptions made;
  made.command.program = DROVER_HELPER_WORKER;
  made.command.out = drover::Stdio::null();
  made.term_grace = 5s;
  if (deaf) made.command.args = {"ignore", "15"}, made.term_grace = 700ms;
  return made;
}

asio::awaitable<void> start(Workers* workers, bool deaf) {
  const auto executor = co_await asio::this_coro::executor;
  for (LocalWorker* worker : {&workers->idle, &workers->busy, &workers->stopped}) {
    *worker = LocalWorker(executor, options(deaf));
    co_await worker->start();
    say(worker->pid());
  }
  asio::co_spawn(executor, workers->busy.call(deaf ? "spin" : "until_stopped"), asio::detached);
  for (drover::WorkerStatus status; status.in_flight == 0;) status = co_await workers->busy.status();
  ::kill(workers->stopped.pid(), SIGSTOP);
  siginfo_t info{};
  expect(::waitid(P_PID, static_cast<id_t>(workers->stopped.pid()), &info, WSTOPPED | WNOWAIT) == 0, "stopped");
  drover::PoolOptions pool;
  pool.size = 2;
  pool.worker = options(deaf);
  workers->pool = co_await WorkerPool::start(pool);
  for (const auto& worker : workers->pool.workers()) say(worker.pid);
  drover::WorkerOptions slow = options(deaf);
  slow.command.args.insert(slow.command.args.end(), {"sleep", "30000"});
  workers->starting = LocalWorker(executor, slow);
  asio::co_spawn(executor, workers->starting.start(), asio::detached);
  asio::steady_timer timer(executor);
  while (workers->starting.pid() == 0) {
    timer.expires_after(1ms);
    co_await timer.async_wait(asio::use_awaitable);
  }
  say(workers->starting.pid());
  say(::getpid());
}

asio::awaitable<void> expect_unharmed(Workers* workers) {
  expect(co_await workers->idle.call<int>("square", 3) == 9, "a worker answers");
  expect(co_await workers->pool.call<int>("square", 4) == 16, "a pool answers");
  const drover::PoolStats stats = workers->pool.stats();
  expect(stats.ready == 2 && stats.crashes == 0, "no worker of the pool has died");
  expect(workers->busy.alive() && workers->stopped.alive() && workers->starting.alive(), "nobody has been signalled");
  const drover::StopReport report = co_await workers->idle.stop();
  expect(!report.rpc && !report.terminated && report.exit.success(), "a worker stops when asked");
}

void run(Workers* workers, asio::awaitable<void> body) {
  asio::co_spawn(workers->context, std::move(body), [workers](std::exception_ptr failed) {
    expect(!failed, "nothing is thrown");
    workers->context.stop();
  });
  workers->context.restart();
  workers->context.run();
}

int replace(Workers* workers, const std::string& how) {
  std::vector<std::string> words{"worker_host", "anew", how};
  for (const LocalWorker* worker : {&workers->stopped, &workers->starting, &workers->idle, &workers->busy})
    words.push_back(std::to_string(worker->pid()));
  for (const auto& worker : workers->pool.workers()) words.push_back(std::to_string(worker.pid));
  if (how == "prepared") expect(drover::prepare_for_exec(), "none is left");
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  ::execv("/proc/self/exe", arguments.data());
  return 3;
}

// The new program. The first two workers cannot see by themselves that their parent program has gone: one is stopped,
// one has not reached serve().
int anew(const std::string& how, const std::vector<std::string>& pids) {
  expect(pids.size() == 6, "all workers are named");
  for (std::size_t i = 0; i < pids.size(); ++i) {
    const pid_t pid = std::stoi(pids[i]);
    if (how == "prepared") {
      expect(::kill(pid, 0) != 0, "nothing is left");
      continue;
    }
    if (i < 2) expect(::kill(pid, SIGKILL) == 0, "a worker that cannot see it lives");
    int status = -1;
    expect(::waitpid(pid, &status, 0) == pid, "a worker stays a zombie until it is waited for");
    expect(i < 2 || (WIFEXITED(status) && WEXITSTATUS(status) == 0), "a worker exits by itself");
  }
  int status = 0;
  expect(::waitpid(-1, &status, WNOHANG) == -1, "no other is left");
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string owner = argv[1], how = argv[2];
  if (owner == "anew") return anew(how, {argv + 3, argv + argc});
  auto workers = std::make_unique<Workers>();
  run(workers.get(), start(workers.get(), how == "deaf"));
  if (how == "forked") {
    const pid_t copy = ::fork();
    if (copy != 0) {
      int status = -1;
      expect(::waitpid(copy, &status, 0) == copy && status == 0, "the copy ends");
      run(workers.get(), expect_unharmed(workers.get()));
    }
  }
  if (how.ends_with("prepared")) return replace(workers.get(), how);
  if (owner == "global") global = std::move(workers);
  if (owner == "leaked") (void)workers.release();
  if (owner == "exit") std::exit(0);
  return 0;
}
