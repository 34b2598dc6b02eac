// Calls and functions that do not fit a drover::Routine fail to compile, with a sentence that says so. REFUSED is set
// by the test.
#include <memory>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include <drover/drover.hpp>

inline constexpr drover::Routine<int(std::string)> word_count{"word_count"};
inline constexpr drover::Routine<std::string(std::vector<int>, int)> join{"join"};
inline constexpr drover::Routine<void(bool)> choose{"choose"};
inline constexpr drover::Routine<void(std::string, drover::Sink<int>&)> grep{"grep"};

struct NoDefault {
  explicit NoDefault(int) {}
};

void use(drover::Routines& routines, drover::WorkerPool& pool, drover::LocalWorker& worker);
void use(drover::Routines& routines, drover::WorkerPool& pool, drover::LocalWorker& worker) {
  [[maybe_unused]] const drover::CallOptions options;
#if REFUSED == 0  // the frame around the cases compiles
  routines.add(word_count, [](const std::string&) { return 1; });
  (void)pool.call(word_count, "text");
  (void)worker.call(options, join, std::vector<int>(), 1);
  routines.add(grep, [](std::string_view, drover::Sink<int>& out) { out.write(1); });
  routines.add(grep, [](const auto&, auto& out) { out.write(1); });
  (void)pool.stream(grep, "pattern");
  (void)pool.async_call(word_count, "text", asio::use_awaitable);
  (void)pool.async_call(options, join, std::vector<int>(), 1, asio::use_awaitable);
#elif REFUSED == 1
  (void)pool.call(word_count);
#elif REFUSED == 2
  (void)pool.call(options, word_count, "text", 1);
#elif REFUSED == 3
  (void)worker.call(word_count, 7);
#elif REFUSED == 4
  (void)worker.call(options, join, std::vector<int>(), "text");
#elif REFUSED == 5
  (void)pool.call(join, std::vector<int>(), 1.5);  // a number is not cut
#elif REFUSED == 6
  (void)pool.call(choose, "text");  // as a call of a function would, unfortunately
#elif REFUSED == 7
  (void)pool.call(choose, 1);
#elif REFUSED == 8
  (void)pool.call(join, drover::borrow(std::string_view("text")), 1);
#elif REFUSED == 9
  (void)pool.call(word_count, options, "text");
#elif REFUSED == 10
  routines.add(word_count, [](int) { return 1; });
#elif REFUSED == 11
  routines.add(word_count, [](std::string, int) { return 1; });
#elif REFUSED == 12
  routines.add(word_count, [](std::string) { return std::string(); });
#elif REFUSED == 13
  routines.add(word_count, [](std::string) {});
#elif REFUSED == 14
  routines.add(word_count, [](std::stop_token, std::string) -> asio::awaitable<double> { co_return 1.5; });
#elif REFUSED == 15
  routines.add(join, [](std::vector<int>, long) { return std::string(); });
#elif REFUSED == 16
  routines.add(choose, [](auto x) { return x; });
#elif REFUSED == 17
  constexpr drover::Routine<int(std::stop_token, int)> stoppable{"stoppable"};
  routines.add(stoppable, [](std::stop_token, int x) { return x; });
#elif REFUSED == 18
  constexpr drover::Routine<asio::awaitable<int>()> coroutine{"coroutine"};
  routines.add(coroutine, []() -> asio::awaitable<int> { co_return 1; });
#elif REFUSED == 19
  constexpr drover::Routine<int> number{"number"};
#elif REFUSED == 20
  constexpr drover::Routine<void(int&)> changing{"changing"};
#elif REFUSED == 21
  constexpr drover::Routine<const std::string&()> reference{"reference"};
#elif REFUSED == 22
  constexpr drover::Routine<std::string_view()> view{"view"};
  (void)pool.call(view);
#elif REFUSED == 23
  constexpr drover::Routine<NoDefault()> no_default{"no_default"};
  (void)pool.call(no_default);
#elif REFUSED == 24
  routines.add(word_count, [](std::string&) { return 1; });
#elif REFUSED == 26
  (void)pool.call(grep, "pattern");
#elif REFUSED == 27
  (void)pool.stream(grep);
#elif REFUSED == 28
  (void)worker.stream(options, grep, 7);
#elif REFUSED == 29
  (void)pool.stream(word_count, "text");
#elif REFUSED == 30
  routines.add(grep, [](std::string, drover::Sink<std::string>&) {});
#elif REFUSED == 31
  constexpr drover::Routine<void(drover::Sink<int>&, drover::Sink<int>&)> two{"two"};
  routines.add(two, [](drover::Sink<int>&, drover::Sink<int>&) {});
#elif REFUSED == 33
  constexpr drover::Routine<void(drover::Sink<int>&, drover::Sink<int>&)> two{"two"};
  (void)pool.stream(two);
#elif REFUSED == 34
  constexpr drover::Routine<NoDefault(drover::Sink<int>&)> no_default{"no_default"};
  (void)pool.stream(no_default);
#elif REFUSED == 35
  constexpr drover::Routine<std::vector<std::string_view>(int)> views{"views"};
  (void)pool.broadcast(views, 1);
#elif REFUSED == 36
  constexpr drover::Routine<std::string_view(int)> view{"view"};
  (void)pool.map({}, view, std::vector<int>());
#elif REFUSED == 37
  (void)pool.map({}, word_count, std::vector<int>());
#elif REFUSED == 32
  (void)pool.broadcast(grep, "pattern");
#elif REFUSED == 25
  constexpr drover::Routine<asio::awaitable<int>()> coroutine{"coroutine"};
  (void)pool.call(coroutine);
#elif REFUSED == 38
  (void)pool.async_call(word_count, 7, asio::use_awaitable);
#elif REFUSED == 39
  (void)pool.async_call(options, word_count, asio::use_awaitable);
#endif
}
