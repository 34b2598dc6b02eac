#pragma once

#include <algorithm>
#include <cstddef>
#include <set>
#include <string>
#include <vector>

#include "support/calls.hpp"

/// What tests of planned replacements look at: the workers of a pool over time.
namespace support {

/// A pool whose events are kept.
inline PoolOptions logged_pool(std::size_t size, const EventLog& log, std::vector<std::string> steps = {}) {
  PoolOptions options = call_pool(size, std::move(steps));
  EventLog copy = log;
  options.worker.on_event = copy.handler();
  return options;
}

/// A command whose worker takes long to get ready.
inline Command slow_command(const PoolOptions& options) {
  Command command = options.worker.command;
  command.args = {"sleep", "30000"};
  return command;
}

inline std::vector<pid_t> pids(const WorkerPool& pool) {
  std::vector<pid_t> found;
  for (const auto& worker : pool.workers()) found.push_back(worker.pid);
  std::sort(found.begin(), found.end());
  return found;
}

inline bool share_one(const std::vector<pid_t>& a, const std::vector<pid_t>& b) {
  return std::any_of(a.begin(), a.end(), [&](pid_t pid) { return std::find(b.begin(), b.end(), pid) != b.end(); });
}

/// The extremes that the events of a pool show. Events arrive in the order in which things happened.
struct Extremes {
  std::size_t most_processes = 0;
  std::size_t fewest_ready = 0;  // once `size` workers had been ready
};

inline Extremes extremes_of(const EventLog& log, std::size_t size) {
  std::set<pid_t> processes, ready;
  Extremes extremes;
  bool complete = false;
  for (const Event& event : log.all()) {
    if (event.kind == Event::Kind::spawned) processes.insert(event.pid);
    if (event.kind == Event::Kind::ready) ready.insert(event.pid);
    if (event.kind == Event::Kind::stopping || event.kind == Event::Kind::exited) ready.erase(event.pid);
    if (event.kind == Event::Kind::exited) processes.erase(event.pid);
    extremes.most_processes = std::max(extremes.most_processes, processes.size());
    if (!complete && ready.size() == size) {
      complete = true;
      extremes.fewest_ready = size;
    }
    if (complete) extremes.fewest_ready = std::min(extremes.fewest_ready, ready.size());
  }
  return extremes;
}

/// The command line of the worker that answers.
inline asio::awaitable<std::string> arguments_of_a_worker(WorkerPool& pool) {
  std::string text = co_await pool.call<std::string>("in_shell", "tr '\\0' ' ' </proc/$PPID/cmdline");
  co_return text;
}

}  // namespace support
