// sha256sum(1) for a whole tree, in worker processes. With --chaos it kills, suspends and crashes its workers at
// random, and still prints the same.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <exception>
#include <functional>
#include <random>
#include <ranges>
#include <utility>
#include <vector>

#include <asio/experimental/awaitable_operators.hpp>
#include <asio/steady_timer.hpp>
#include <asio/use_awaitable.hpp>

#include <drover/drover.hpp>

#include "hash_tree/chaos.hpp"
#include "hash_tree/command_line.hpp"
#include "hash_tree/report.hpp"
#include "hash_tree/sha256.hpp"
#include "hash_tree/walk.hpp"

namespace {

using namespace std::chrono_literals;
using Result = drover::MapResult<Digest, File>;

struct Job {
  CommandLine command_line;
  Report report{};
  TreeWalk files{command_line.directory, std::bind_front(&Report::failure, &report)};
  int attempt = 1;  // the one in which files are being hashed
};

/// A suspended worker never replies. After run_for its file is taken from it, and after kill_after it is killed.
drover::CallOptions call_options(const Job& job, std::uint64_t bytes) {
  const bool chaos = job.command_line.chaos;
  const drover::Duration once =
      chaos ? 250ms + std::chrono::milliseconds(bytes >> 17) : 1min + std::chrono::milliseconds(bytes >> 13);
  drover::CallOptions options;
  options.run_for = once * (1 << std::clamp(job.attempt - 2, 0, 6));
  options.kill_after = chaos ? 20ms : 1s;
  options.retry.attempts = 3;
  options.priority = job.attempt == 1 ? 1 : 2;  // the others wait for it
  return options;
}

/// Whether the worker failed and not the file: it died, or was too slow. Another one may then hash the file.
bool worker_failed(Result& result) {
  try {
    result.value();
  } catch (const drover::Error& error) {
    if (error.code() == drover::Errc::pool_failed) throw;
    return true;
  } catch (const drover::RemoteError&) {  // the file can't be read
  }
  return false;
}

/// Hashes those files again whose worker failed, or that need more time than the first map gives to each file.
asio::awaitable<void> try_again(drover::WorkerPool& pool, Job& job, std::vector<Result>& results) {
  for (job.attempt = 2; job.attempt <= (job.command_line.chaos ? 100 : 4); ++job.attempt) {
    std::vector<Result*> failed;
    std::uint64_t largest = 0;
    for (Result& result : results) {
      if (!worker_failed(result)) continue;
      failed.push_back(&result);
      largest = std::max(largest, result.input.size);
    }
    if (failed.empty()) break;
    auto again = pool.map({.call = call_options(job, largest)}, sha256, failed | std::views::transform(&Result::input));
    for (;;) {
      auto result = co_await again.next();
      if (!result) break;
      *failed[result->index] = std::move(*result);
    }
  }
  job.attempt = 1;
}

asio::awaitable<void> hash_files(drover::WorkerPool& pool, Job& job) {
  constexpr std::size_t most = 4096;  // so far may files get ahead of one that is not done yet
  auto results = pool.map({.in_flight = most, .ordered = true, .call = call_options(job, 0)}, sha256, job.files);
  std::vector<Result> behind;  // what is printed once the first one of them is done
  for (bool more = true; more;) {
    auto result = co_await results.next();
    more = result.has_value();
    if (more) behind.push_back(std::move(*result));
    if (more && behind.size() < most && worker_failed(behind.front())) continue;
    co_await try_again(pool, job, behind);
    for (Result& done : behind) job.report.print(done);
    behind.clear();
  }
}

/// Draws the progress bar and causes chaos, until it is cancelled.
asio::awaitable<void> meanwhile(drover::WorkerPool& pool, Job& job) {
  std::mt19937 random(std::random_device{}());
  asio::steady_timer pause(co_await asio::this_coro::executor);
  for (;;) {
    if (Report::has_terminal()) job.report.draw(pool.stats());
    pause.expires_after(std::chrono::milliseconds(20 + random() % 150));
    co_await pause.async_wait(asio::use_awaitable);
    // Without rests a large file would never be done, because each of its workers would be hit.
    if (job.command_line.chaos && job.attempt < 3) co_await cause_chaos(pool, random);
  }
}

asio::awaitable<void> keep_error(asio::awaitable<void> task, std::exception_ptr& error) {
  try {
    co_await std::move(task);
  } catch (...) {
    error = std::current_exception();
  }
}

asio::awaitable<void> hash_tree(drover::WorkerPool& pool, Job& job) {
  using namespace asio::experimental::awaitable_operators;
  if (Report::has_terminal()) job.report.expect(count_files(job.command_line.directory));
  // `||` waits for the first one that succeeds, so hashing must succeed in any case.
  std::exception_ptr error;
  auto either = keep_error(hash_files(pool, job), error) || meanwhile(pool, job);
  co_await std::move(either);
  if (error) std::rethrow_exception(error);
  job.report.finish(pool.stats());
}

}  // namespace

int main(int argc, char** argv) {
  drover::Routines routines;
  routines.add(sha256, hash_file).add(crash, abort_without_core);
  if (drover::in_worker()) return drover::serve(routines);

  Job job{parse_command_line(argc, argv)};
  drover::PoolOptions options{.size = job.command_line.workers};
  options.worker.name = "hasher";
  // A stop need not wait for calls in flight, because hashing has no effect that could be lost.
  options.shutdown_grace = 0ms;
  options.worker.shutdown_grace = options.worker.stop_margin = options.worker.term_grace = 200ms;
  if (job.command_line.chaos) options.restart = {.max_restarts = 1'000'000, .backoff = 1ms, .max_backoff = 1ms};

  const int status = drover::run_main(drover::with_pool(
      options, [&job](drover::WorkerPool& pool) -> asio::awaitable<void> { return hash_tree(pool, job); }));
  if (!job.report.flush()) return 1;
  return status != 0 ? status : job.report.failures() == 0 ? 0 : 1;
}
