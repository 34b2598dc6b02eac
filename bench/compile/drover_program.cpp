// Beside T-13: a whole program, both sides, so that everything of drover is instantiated in one file.
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
