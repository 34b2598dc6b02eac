// T-13: all of drover, and one call.
#include <drover/drover.hpp>

asio::awaitable<int> square(drover::WorkerPool& pool, int number);
asio::awaitable<int> square(drover::WorkerPool& pool, int number) {
  co_return co_await pool.call<int>("square", number);
}
