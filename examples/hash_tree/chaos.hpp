#pragma once

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <random>
#include <sys/resource.h>
#include <vector>

#include <asio/awaitable.hpp>

#include <drover/error.hpp>
#include <drover/pool/worker_pool.hpp>
#include <drover/routine.hpp>

inline constexpr drover::Routine<void()> crash{"crash"};

/// A worker runs this.
inline void abort_without_core() {
  const rlimit no_core{0, 0};
  ::setrlimit(RLIMIT_CORE, &no_core);
  std::abort();
}

/// Kills, suspends or crashes a worker.
inline asio::awaitable<void> cause_chaos(drover::WorkerPool& pool, std::mt19937& random) {
  const std::vector<drover::WorkerMetadata> workers = pool.workers();
  if (workers.empty()) co_return;
  const pid_t victim = workers[random() % workers.size()].pid;
  switch (random() % 3) {
    case 0: ::kill(victim, SIGKILL); break;
    case 1: ::kill(victim, SIGSTOP); break;
    default:
      try {
        const drover::CallOptions call{
            .deadline = std::chrono::milliseconds(100), .kill_after = drover::Duration::zero(), .priority = 3};
        co_await pool.call(call, crash);
      } catch (const drover::Error&) {
        // The crash was intended. A real failure shows up with the next file.
      }
  }
}
