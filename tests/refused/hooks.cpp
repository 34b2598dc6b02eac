// Hooks that a worker cannot have. REFUSED is the number of one of them; 0: what it can have.
#include <string>

#include <asio/awaitable.hpp>

#include <drover/worker/routines.hpp>

void add(drover::Routines& routines);

void add(drover::Routines& routines) {
#if REFUSED == 0
  routines.on_start([] {})
      .on_start([](const drover::WorkerInfo&) {})
      .on_start([](drover::WorkerInfo) -> asio::awaitable<void> { co_return; })
      .on_start([count = 0]() mutable { ++count; })
      .on_stop([] {})
      .on_stop([]() -> asio::awaitable<void> { co_return; });
#elif REFUSED == 1
  routines.on_start([](int) {});
#elif REFUSED == 2
  routines.on_start([] { return 1; });
#elif REFUSED == 3
  routines.on_start([]() -> asio::awaitable<int> { co_return 1; });
#elif REFUSED == 4
  routines.on_start(std::string("a command"));
#elif REFUSED == 5
  routines.on_stop([](const drover::WorkerInfo&) {});
#elif REFUSED == 6
  routines.on_stop([] { return 0; });
#endif
}
