#include <drover/drover.hpp>

drover::Routines routines_of_the_other_unit();
asio::awaitable<int> square_in_the_other_unit(drover::WorkerPool& pool, int x);

drover::Routines routines_of_the_other_unit() {
  drover::Routines routines;
  routines.add("square", [](int x) { return x * x; });
  return routines;
}

asio::awaitable<int> square_in_the_other_unit(drover::WorkerPool& pool, int x) {
  co_return co_await pool.call<int>("square", x);
}
