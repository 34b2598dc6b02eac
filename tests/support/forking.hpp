#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <set>
#include <signal.h>
#include <string>
#include <tuple>
#include <vector>

#include "support/fleet.hpp"

/// What tests of fork servers need.
namespace support {

using drover::Launch;

inline PoolOptions forking_pool(std::size_t size, std::vector<std::string> steps = {}) {
  PoolOptions options;
  options.size = size;
  options.launch = Launch::fork;
  options.worker.name = "copy";
  options.worker.command.program = DROVER_HELPER_FORK_WORKER;
  options.worker.command.args = std::move(steps);
  options.worker.command.out = Stdio::null();
  options.restart.backoff = 1ms;
  return options;
}

/// The processes that the pool's events name as fork servers and that live.
inline std::set<pid_t> servers_in(const EventLog& log) {
  std::set<pid_t> found;
  for (const Event& event : log.all()) {
    if (event.worker != "copy (fork server)") continue;
    if (event.kind == Event::Kind::spawned) found.insert(event.pid);
    if (event.kind == Event::Kind::exited) found.erase(event.pid);
  }
  return found;
}

inline std::string causes_in(const EventLog& log) {
  std::string text;
  for (const Event& event : log.all())
    if (event.kind == Event::Kind::fork_failed) text += event.cause + "\n";
  return text;
}

using Who = std::tuple<int, std::int64_t>;

/// All workers of an idle pool: their ids, and when the processes were born of which they are copies.
inline asio::awaitable<std::map<int, std::int64_t>> everyone(WorkerPool& pool) {
  std::vector<Task<Who>> calls;
  const auto executor = co_await asio::this_coro::executor;
  for (std::size_t i = pool.workers().size(); i != 0; --i) calls.emplace_back(executor, pool.call<Who>("who"));
  std::map<int, std::int64_t> found;
  for (auto& call : calls) {
    const Who who = co_await call.result();
    found.emplace(std::get<0>(who), std::get<1>(who));
  }
  EXPECT_EQ(found.size(), calls.size());
  co_return found;
}

inline std::set<std::int64_t> births(const std::map<int, std::int64_t>& workers) {
  std::set<std::int64_t> found;
  for (const auto& [pid, born] : workers) found.insert(born);
  return found;
}

/// Kills a worker and waits for the next one in its place.
inline asio::awaitable<void> replace(WorkerPool& pool, pid_t pid) {
  const std::size_t count = pool.workers().size();
  ::kill(pid, SIGKILL);
  const bool replaced = co_await soon([&] {
    const auto now = pids(pool);
    return now.size() == count && std::find(now.begin(), now.end(), pid) == now.end();
  });
  EXPECT_TRUE(replaced);
}

}  // namespace support
