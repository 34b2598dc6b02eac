// T-13, for comparison: a program with both sides in one file, which instantiates most of drover.
#include <string>

#include <drover/drover.hpp>

int main() {
  drover::Routines routines;
  routines.add("echo", [](std::string text) { return text; });
  if (drover::in_worker()) return drover::serve(routines);

  drover::PoolOptions options;
  return drover::run_main(drover::with_pool(options, [](drover::WorkerPool& pool) -> asio::awaitable<void> {
    const std::string text = "hello";
    co_await pool.call<std::string>("echo", text);
  }));
}
