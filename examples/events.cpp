// What a program is told of a worker that refuses to die: it has replaced itself by a shell that knows nothing of
// drover and ignores SIGTERM, so it takes the whole ladder to end it. Prints a timeline.
#include <cstdio>
#include <unistd.h>

#include <drover/drover.hpp>

namespace {

using namespace std::chrono_literals;

double seconds_since(drover::Clock::time_point begin, drover::Clock::time_point at) {
  return std::chrono::duration<double>(at - begin).count();
}

void refuse_to_die() { ::execl("/bin/sh", "sh", "-c", "trap '' TERM; while :; do sleep 1; done", nullptr); }

asio::awaitable<void> watch_it_die() {
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

  auto call = worker.call<void>("refuse_to_die");
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
  routines.add("refuse_to_die", refuse_to_die);
  if (drover::in_worker()) return drover::serve(routines);
  return drover::run_main(watch_it_die());
}
