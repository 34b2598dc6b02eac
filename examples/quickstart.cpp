#include <iostream>

#include <drover/drover.hpp>

int main() {
  drover::Routines routines;
  routines.add("square", [](int x) { return x * x; });
  if (drover::in_worker()) return drover::serve(routines);

  return drover::run_main(drover::with_pool({.size = 4}, [](drover::WorkerPool& pool) -> asio::awaitable<void> {
    std::cout << co_await pool.call<int>("square", 7) << '\n';
  }));
}
