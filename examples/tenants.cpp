// A worker process for each tenant. The tenant's first request starts the worker, all its requests share it, and it is
// stopped after a while without requests. If a worker crashes, the request that it was running fails. The tenant's next
// request gets a new worker, even while other requests hold the old one. Other tenants are not affected. Prints a
// timeline.
#include <csignal>
#include <cstdio>
#include <memory>
#include <string>

#include <asio/experimental/awaitable_operators.hpp>
#include <asio/steady_timer.hpp>
#include <asio/use_awaitable.hpp>

#include <drover/drover.hpp>

namespace {

using namespace std::chrono_literals;

// In the workers ------------------------------------------------------------------------------------------------------

int served = 0;  // requests of one tenant, because each tenant has a process of its own

int count_request() { return ++served; }

void crash() { ::raise(SIGSEGV); }

// In the server -------------------------------------------------------------------------------------------------------

using Worker = std::unique_ptr<drover::LocalWorker>;
using Tenants = drover::ResourcePool<std::string, Worker>;

class Timeline {
 public:
  void say(const std::string& tenant, const std::string& what) {
    const std::chrono::duration<double> at = drover::Clock::now() - begin_;
    std::printf("%6.2f s  %-6s %s\n", at.count(), tenant.c_str(), what.c_str());
  }

 private:
  drover::Clock::time_point begin_ = drover::Clock::now();
};

asio::awaitable<void> pause(drover::Duration time) {
  asio::steady_timer timer(co_await asio::this_coro::executor, time);
  co_await timer.async_wait(asio::use_awaitable);
}

asio::awaitable<Worker> start_worker(Timeline& timeline, std::string tenant) {
  drover::WorkerOptions options;
  options.name = tenant;
  options.shutdown_grace = 500ms;
  options.max_in_flight = 4;
  auto worker = std::make_unique<drover::LocalWorker>(co_await asio::this_coro::executor, options);
  co_await worker->start();
  timeline.say(tenant, "worker started");
  co_return worker;
}

asio::awaitable<void> stop_worker(Timeline& timeline, Worker& worker) {
  const std::string tenant = worker->metadata().name;
  const drover::StopReport report = co_await worker->stop();
  timeline.say(tenant, "worker stopped: " + report.exit.to_string());
}

/// Whether later calls to this worker would fail as well.
bool worker_is_lost(const drover::Error& error) {
  return error.code() == drover::Errc::worker_exited || error.code() == drover::Errc::connection_lost ||
         error.code() == drover::Errc::protocol_error || error.code() == drover::Errc::not_running ||
         error.code() == drover::Errc::stopping;
}

asio::awaitable<void> request(Timeline& timeline, Tenants& tenants, std::string tenant, std::string routine) {
  auto lease = co_await tenants.acquire(tenant);
  std::string answer;
  try {
    if (routine == "crash")
      co_await (*lease)->call<void>(routine);
    else
      answer = "request " + std::to_string(co_await (*lease)->call<int>(routine)) + " of this worker";
  } catch (const drover::Error& error) {
    answer = error.exit_status() ? "failed: the worker was " + error.exit_status()->to_string() : error.what();
    // Later requests get a new worker. Requests that hold this one keep it until they release it.
    if (worker_is_lost(error)) lease.discard();
  }
  timeline.say(tenant, answer);
  co_await lease.release();
}

asio::awaitable<void> serve_tenants() {
  Timeline timeline;
  const asio::any_io_executor executor = co_await asio::this_coro::executor;
  Tenants::Options options;
  options.ttl = 400ms;
  options.finalizer = [&timeline](Worker& worker) { return stop_worker(timeline, worker); };
  Tenants tenants(
      executor, [&timeline](const std::string& tenant) { return start_worker(timeline, tenant); }, std::move(options));

  using namespace asio::experimental::awaitable_operators;
  const auto ask = [&](const char* tenant, const char* routine) { return request(timeline, tenants, tenant, routine); };

  // Three concurrent requests of one tenant share a worker. Another tenant has its own.
  co_await (ask("ann", "count") && ask("ann", "count") && ask("ann", "count") && ask("bob", "count"));

  // Ann's worker crashes while two sessions hold a lease of it. Only the request that it was running fails. Ann's next
  // requests get a new worker, although the sessions still hold the old one. Bob's worker is not affected.
  {
    auto session = co_await tenants.acquire("ann");
    auto another = co_await tenants.acquire("ann");
    co_await ask("ann", "crash");
    co_await (ask("ann", "count") && ask("ann", "count") && ask("bob", "count"));
    timeline.say("ann", "sessions end");
    co_await session.release();
    co_await another.release();
  }
  co_await ask("ann", "count");

  // Without requests both workers are stopped after the ttl.
  while (tenants.stats().total_entries > 0) co_await pause(20ms);
  timeline.say("", "no worker is left");
}

}  // namespace

int main() {
  drover::Routines routines;
  routines.add("count", count_request).add("crash", crash);
  if (drover::in_worker()) return drover::serve(routines);
  return drover::run_main(serve_tenants());
}
