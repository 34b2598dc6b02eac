// Does in a shared object what starts drover's background thread and leaves something behind in a context.
#include <drover/drover.hpp>

namespace {

asio::awaitable<int> use_a_process() {
  drover::Command command{.program = "sh", .args = {"-c", "exit 7"}};
  drover::Process process = drover::Process::spawn(command);
  const drover::ExitStatus status = co_await process.wait();
  co_return status.value;
}

asio::awaitable<int> use_a_pool() {
  using Pool = drover::ResourcePool<int, int>;
  const Pool::Options options{.ttl = std::chrono::hours(1)};
  Pool pool(co_await asio::this_coro::executor, [](const int& key) { return key + 1; }, options);
  Pool::Lease lease = co_await pool.acquire(41);
  const int value = *lease;
  co_await lease.release();
  co_return value;
}

}  // namespace

extern "C" int plugin_run() {
  if (drover::run(use_a_process()) != 7) return 1;
  if (drover::run(use_a_pool()) != 42) return 2;
  return 0;
}
