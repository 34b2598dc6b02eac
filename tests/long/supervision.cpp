// A pool under load for a long time, while it is reloaded every second and one of its workers is killed every second.
// Each call has to end once, only calls of killed workers may fail, and descriptors, memory and processes stay as they
// are.
//
//     supervision [exec|fork] [seconds] [calls a second]
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <dirent.h>
#include <fstream>
#include <memory>
#include <signal.h>
#include <string>
#include <sys/wait.h>

#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/steady_timer.hpp>
#include <asio/this_coro.hpp>
#include <asio/use_awaitable.hpp>

#include <drover/pool/worker_pool.hpp>
#include <drover/run.hpp>
#include <drover/worker/serve.hpp>

#include "support/sanitizers.hpp"

namespace {

using drover::Clock;
using drover::Errc;
using namespace std::chrono_literals;

struct Counts {
  std::uint64_t begun = 0, good = 0, killed = 0;  // calls
  std::uint64_t wrong = 0;                        // a result of another call, or an error that nobody has caused
  std::uint64_t kills = 0, reloads = 0, failed_reloads = 0;
  std::uint64_t running = 0;
  bool over = false;
  std::string text;  // of the last error
};

asio::awaitable<void> pause(Clock::duration time) {
  asio::steady_timer timer(co_await asio::this_coro::executor, time);
  co_await timer.async_wait(asio::use_awaitable);
}

asio::awaitable<void> call(drover::WorkerPool& pool, Counts& counts) {
  const std::uint64_t number = ++counts.begun;
  ++counts.running;
  try {
    const auto result = co_await pool.call<std::uint64_t>("same", number);
    ++(result == number ? counts.good : counts.wrong);
  } catch (const drover::Error& error) {
    counts.text = error.what();
    ++(error.code() == Errc::worker_exited ? counts.killed : counts.wrong);
  }
  --counts.running;
}

asio::awaitable<void> keep_calling(drover::WorkerPool& pool, Counts& counts, int a_second) {
  asio::steady_timer timer(co_await asio::this_coro::executor, Clock::now());
  while (!counts.over) {
    timer.expires_at(timer.expiry() + 10ms);
    co_await timer.async_wait(asio::use_awaitable);
    for (int i = 0; i < a_second / 100; ++i) asio::co_spawn(timer.get_executor(), call(pool, counts), asio::detached);
  }
}

asio::awaitable<void> keep_killing(drover::WorkerPool& pool, Counts& counts) {
  while (!counts.over) {
    co_await pause(1s);
    const auto workers = pool.workers();
    if (workers.empty()) continue;
    const pid_t pid = workers[counts.kills % workers.size()].pid;
    if (::kill(pid, SIGKILL) == 0) ++counts.kills;
  }
}

asio::awaitable<void> keep_reloading(drover::WorkerPool& pool, Counts& counts) {
  while (!counts.over) {
    co_await pause(1s);
    try {
      co_await pool.reload();
      ++counts.reloads;
    } catch (const drover::Error& error) {  // the successor that it waited for was killed
      ++counts.failed_reloads;
    }
  }
}

constexpr std::size_t descriptors_more = 12;  // than after the first tenth of the time

struct Use {
  std::size_t descriptors = 0, memory_kib = 0, threads = 0, processes = 0;
};

Use use() {
  Use use;
  const std::unique_ptr<DIR, int (*)(DIR*)> folder(::opendir("/proc/self/fd"), &::closedir);
  while (::readdir(folder.get()) != nullptr) ++use.descriptors;
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmRSS:")) use.memory_kib = std::strtoull(line.c_str() + 6, nullptr, 10);
    if (line.starts_with("Threads:")) use.threads = std::strtoull(line.c_str() + 8, nullptr, 10);
  }
  std::ifstream children("/proc/self/task/" + std::to_string(::getpid()) + "/children");
  for (pid_t pid = 0; children >> pid;) ++use.processes;
  return use;
}

void print(const Counts& counts, const Use& now, double seconds) {
  std::printf(
      "%6.0f s: %llu calls, %llu of them of killed workers, %llu wrong; %llu kills, %llu reloads, %llu failed; "
      "%zu descriptors, %zu KiB, %zu threads, %zu children\n",
      seconds, static_cast<unsigned long long>(counts.good + counts.killed),
      static_cast<unsigned long long>(counts.killed), static_cast<unsigned long long>(counts.wrong),
      static_cast<unsigned long long>(counts.kills), static_cast<unsigned long long>(counts.reloads),
      static_cast<unsigned long long>(counts.failed_reloads), now.descriptors, now.memory_kib, now.threads,
      now.processes);
  std::fflush(stdout);
}

asio::awaitable<int> run(drover::Launch launch, std::chrono::seconds time, int a_second) {
  Counts counts;
  Use after_warm_up, last;
  {
    drover::PoolOptions options;
    options.size = 4;
    options.spares = 1;
    options.max_size = 6;
    options.idle_after = 500ms;
    options.launch = launch;
    options.max_queued = 1'000'000;
    options.restart.backoff = 1ms;
    options.worker.max_in_flight = 2;
    options.worker.stall = 5s;
    drover::WorkerPool pool = co_await drover::WorkerPool::start(std::move(options));
    const auto executor = co_await asio::this_coro::executor;
    const auto begin = Clock::now();
    asio::co_spawn(executor, keep_calling(pool, counts, a_second), asio::detached);
    asio::co_spawn(executor, keep_killing(pool, counts), asio::detached);
    asio::co_spawn(executor, keep_reloading(pool, counts), asio::detached);
    const auto step = std::max<Clock::duration>(time / 60, 1s);
    for (auto at = begin + step; at <= begin + time; at += step) {
      co_await pause(at - Clock::now());
      last = use();
      if (after_warm_up.descriptors == 0 && at - begin >= time / 10) after_warm_up = last;
      print(counts, last, std::chrono::duration<double>(at - begin).count());
    }
    counts.over = true;
    co_await pause(1500ms);
    // Workers that are being replaced have more for a while.
    for (int i = 0; i < 1000; ++i) {
      last = use();
      if (counts.running == 0 && last.descriptors <= after_warm_up.descriptors + descriptors_more) break;
      co_await pause(10ms);
    }
    co_await pool.stop();
  }
  const auto fails = [](bool bad, const char* what) { return bad && (std::printf("FAILED: %s\n", what), true); };
  int status = 0;
  int faults = 0;
  faults += fails(counts.running != 0, "a call has not ended");
  faults += fails(counts.good + counts.killed + counts.wrong != counts.begun, "a call has not ended once");
  faults += fails(counts.wrong != 0, counts.text.c_str());
  faults += fails(counts.killed > 2 * counts.kills, "more calls have failed than killed workers had");
  faults += fails(last.descriptors > after_warm_up.descriptors + descriptors_more, "descriptors have grown");
  // Sanitizers keep freed memory for a while.
  faults += fails(!support::sanitized && last.memory_kib > after_warm_up.memory_kib + 4096, "memory has grown");
  faults += fails(last.threads > after_warm_up.threads, "threads have grown");
  faults += fails(::waitpid(-1, &status, WNOHANG) != -1, "a child is left");
  std::printf("%s\n", faults == 0 ? "each call has ended once; nothing has grown, nothing is left" : "FAILED");
  co_return faults == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (drover::in_worker()) {
    drover::Routines routines;
    routines.add("same", [](std::uint64_t number) { return number; });
    return drover::serve(routines);
  }
  const auto launch = argc > 1 && std::string(argv[1]) == "fork" ? drover::Launch::fork : drover::Launch::exec;
  const int seconds = argc > 2 ? std::atoi(argv[2]) : 3600;
  const int a_second = argc > 3 ? std::atoi(argv[3]) : 500;
  return drover::run(run(launch, std::chrono::seconds(seconds), a_second));
}
