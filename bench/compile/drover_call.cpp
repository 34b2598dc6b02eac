// T-13: a file that includes all of drover and makes one call.
#include <drover/drover.hpp>

asio::awaitable<int> square(drover::WorkerPool& pool, int number);
asio::awaitable<int> square(drover::WorkerPool& pool, int number) {
  co_return co_await pool.call<int>("square", number);
}
