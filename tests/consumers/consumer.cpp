// What a user's program does: a pool of workers that are this program itself, one call, everything stopped again.
#include <cstdlib>

#include <drover/drover.hpp>

int main() {
  drover::Routines routines;
  routines.add("square", [](int x) { return x * x; });
  if (drover::in_worker()) return drover::serve(routines);

  return drover::run_main(drover::with_pool({.size = 2}, [](drover::WorkerPool& pool) -> asio::awaitable<void> {
    const int answer = co_await pool.call<int>("square", 7);
    if (answer != 49) std::abort();
  }));
}
