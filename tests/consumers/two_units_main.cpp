// Two translation units with everything in both: nothing is defined twice, and they share what drover keeps.
#include <drover/drover.hpp>

drover::Routines routines_of_the_other_unit();
asio::awaitable<int> square_in_the_other_unit(drover::WorkerPool& pool, int x);

int main() {
  if (drover::in_worker()) return drover::serve(routines_of_the_other_unit());

  return drover::run_main(drover::with_pool({.size = 1}, [](drover::WorkerPool& pool) -> asio::awaitable<void> {
    const int answer = co_await square_in_the_other_unit(pool, 7);
    if (answer != 49) throw std::runtime_error("the answer is not 49");
  }));
}
