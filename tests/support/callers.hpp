#pragma once

#include <exception>
#include <memory>
#include <string>

#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>

#include "support/calls.hpp"

/// Callers that keep a pool busy while a test does something to its workers.
namespace support {

/// Counts how their calls have ended.
struct Tally {
  int good = 0, exited = 0, stopping = 0, other = 0, left = 0;
  std::string text;
};

/// Ends early once the pool is being stopped.
inline asio::awaitable<void> keep_calling(WorkerPool& pool, std::shared_ptr<Tally> tally, int calls) {
  for (int i = 0; i < calls && tally->stopping == 0; ++i) {
    Failure failure;
    try {
      const int square = co_await pool.call<int>("square", i % 1000);
      tally->good += square == (i % 1000) * (i % 1000);
      continue;
    } catch (...) {
      failure = describe(std::current_exception());
    }
    ++(failure == Errc::worker_exited ? tally->exited : failure == Errc::stopping ? tally->stopping : tally->other);
    if (!(failure == Errc::stopping)) tally->text = failure.text;
  }
  --tally->left;
}

inline std::shared_ptr<Tally> spawn_callers(const asio::any_io_executor& executor, WorkerPool& pool, int callers,
                                            int calls) {
  const auto tally = std::make_shared<Tally>();
  tally->left = callers;
  for (int i = 0; i < callers; ++i) asio::co_spawn(executor, keep_calling(pool, tally, calls), asio::detached);
  return tally;
}

}  // namespace support
