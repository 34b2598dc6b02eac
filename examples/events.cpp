// The events of a worker that refuses to exit. Its routine replaces the worker by a shell that knows nothing of drover
// and ignores SIGTERM, so that the stop has to escalate to SIGKILL. Prints a timeline.
#include <cstdio>
#include <unistd.h>

#include <drover/drover.hpp>

namespace {

using namespace std::chrono_literals;

double seconds_since(drover::Clock::time_point begin, drover::Clock::time_point at) {
  return std::chrono::duration<double>(at - begin).count();
}

void refuse_to_exit() { ::execl("/bin/sh", "sh", "-c", "trap '' TERM; while :; do sleep 1; done", nullptr); }

asio::awaitable<void> stop_the_worker() {
  const auto begin = drover::Clock::now();
  drover::WorkerOptions options;
  options.name = "mule";
  options.stop_margin = 500ms;
  options.term_grace = 500ms;
  options.on_event = [begin](const drover::Event& event) {
    std::printf("%6.2f s  %s\n", seconds_since(begin, event.at), event.to_string().c_str());
  };
  drover::LocalWorker worker(co_await asio::this_coro::executor, options);
  co_await worker.start();

  auto call = worker.call<void>("refuse_to_exit");
  const drover::StopReport report = co_await worker.stop(300ms);
  std::printf("%6.2f s  the stop says: %s terminated %s, killed %s, %s\n", seconds_since(begin, drover::Clock::now()),
              report.rpc.message().c_str(), report.terminated ? "yes" : "no", report.killed ? "yes" : "no",
              report.exit.to_string().c_str());
  try {
    co_await std::move(call);
  } catch (const drover::Error& error) {
    std::printf("%6.2f s  the call says: %s\n", seconds_since(begin, drover::Clock::now()), error.what());
  }
}

}  // namespace

int main() {
  drover::Routines routines;
  routines.add("refuse_to_exit", refuse_to_exit);
  if (drover::in_worker()) return drover::serve(routines);
  return drover::run_main(stop_the_worker());
}
