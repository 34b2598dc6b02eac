// Prints the metrics of a pool that has called its workers and lost one, together with those of a pool whose names have
// to be escaped.
#include <csignal>
#include <exception>
#include <iostream>
#include <string>
#include <utility>

#include <drover/drover.hpp>

namespace {

asio::awaitable<void> print_metrics(drover::WorkerPool& pool) {
  for (int i = 0; i < 10; ++i) (void)co_await pool.call<int>("square", i);
  try {
    co_await pool.call("crash");
  } catch (const drover::Error&) {
  }
  auto last = pool.call<int>("square", 7);
  drover::PoolStats stats = pool.stats();
  drover::PoolStats other = stats;
  const std::string name = "a \"quoted\"\\ \xc3\xa9\nname";
  for (drover::WorkerFigures& worker : other.per_worker) worker.name = name;
  std::cout << drover::metrics_text({{"squares", std::move(stats)}, {name, std::move(other)}});
  (void)co_await std::move(last);
}

}  // namespace

int main() {
  drover::Routines routines;
  routines.add("square", [](int x) { return x * x; });
  routines.add("crash", [] { std::raise(SIGKILL); });
  if (drover::in_worker()) return drover::serve(routines);
  return drover::run_main(drover::with_pool({.size = 3}, print_metrics));
}
