#include <array>
#include <exception>
#include <functional>
#include <gtest/gtest.h>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <thread>
#include <tuple>
#include <variant>
#include <vector>

#include <asio/awaitable.hpp>
#include <asio/co_spawn.hpp>
#include <asio/error.hpp>
#include <asio/io_context.hpp>

#include <drover/worker/detail/id_queue.hpp>
#include <drover/worker/detail/run_routine.hpp>
#include <drover/worker/detail/stop_sources.hpp>
#include <drover/worker/routines.hpp>

struct Silent : std::exception {
  const char* what() const noexcept override { return nullptr; }
};

struct Awkward {};

template <>
struct drover::Codec<Awkward> {
  static void encode(Encoder&, Awkward) {}
  static Awkward decode(Decoder&) { throw Silent(); }
};

namespace {

using namespace drover::detail;
using drover::Decoder;
using drover::Encoder;
using drover::Routines;

int twice(int x) { return 2 * x; }
int twice_noexcept(int x) noexcept { return 2 * x; }

struct Point {
  int x = 0, y = 0;
};
auto drover_fields(Point& p) { return std::tie(p.x, p.y); }

struct Counter {
  int count = 0;
  int operator()() { return ++count; }
};

/// Runs a routine with encoded arguments, as a worker would.
struct Runner {
  Routines routines;
  std::stop_source stop;
  ResultStatus status{};
  std::size_t limit = 1000;
  bool cancelled = false;

  /// The body in one piece, as it would arrive.
  static ByteBuffer whole(FrameBody body) {
    ByteBuffer bytes;
    for (const auto& piece : body.pieces()) bytes.append(view_of(*piece));
    bytes.append(body.buffer().view());
    EXPECT_EQ(bytes.size(), body.size());
    return bytes;
  }

  template <class... Args>
  ByteBuffer run(const std::string& name, const Args&... args) {
    Routine* const routine = RoutinesAccess::table(routines).find(name);
    if (routine == nullptr) throw std::logic_error("no such routine");
    ByteBuffer body;
    FrameBody result;
    Encoder encoder(body);
    (encoder.put(args), ...);
    Decoder decoder(body.view());
    if (!routine->is_coroutine()) {
      status = run_and_encode(result, limit, name, *routine, cancelled,
                              [&] { routine->run(decoder, stop.get_token(), result); });
      return whole(std::move(result));
    }
    asio::io_context context;
    std::exception_ptr failure;
    asio::co_spawn(context, routine->start(decoder, stop.get_token(), result),
                   [&](std::exception_ptr e) { failure = e; });
    context.run();
    status = run_and_encode(result, limit, name, *routine, cancelled, [&] {
      if (failure) std::rethrow_exception(failure);
    });
    return whole(std::move(result));
  }

  template <class R, class... Args>
  R get(const std::string& name, const Args&... args) {
    const ByteBuffer result = run(name, args...);
    EXPECT_EQ(status, ResultStatus::ok);
    Decoder decoder(result.view());
    R value = decoder.get<R>();
    decoder.finish();
    return value;
  }

  template <class... Args>
  std::vector<std::string> failure(const std::string& name, const Args&... args) {
    const ByteBuffer result = run(name, args...);
    EXPECT_NE(status, ResultStatus::ok);
    Decoder decoder(result.view());
    std::vector<std::string> texts;
    while (!decoder.at_end()) texts.push_back(decoder.get<std::string>());
    return texts;
  }
};

TEST(Routines, NeedUniqueNamesThatAreNotEmpty) {
  Routines routines;
  routines.add("a", twice).add("b", twice);
  EXPECT_THROW(routines.add("", twice), std::invalid_argument);
  EXPECT_THROW(routines.add("a", [] {}), std::invalid_argument);
  EXPECT_EQ(RoutinesAccess::table(routines).names(), (std::vector<std::string>{"a", "b"}));
}

TEST(Routines, AcceptEveryKindOfCallable) {
  Runner r;
  int base = 100;
  r.routines.add("function", twice)
      .add("function pointer", &twice_noexcept)
      .add("lambda", [base](int x) { return base + x; })
      .add("mutable lambda", [calls = 0]() mutable { return ++calls; })
      .add("functor", Counter{})
      .add("std::function", std::function<int(int)>(twice))
      .add("capturing coroutine", [base](int x) -> asio::awaitable<int> { co_return base + x; })
      .add("move-only lambda", [kept = std::make_unique<int>(5)] { return *kept; });
  EXPECT_EQ(r.get<int>("function", 4), 8);
  EXPECT_EQ(r.get<int>("function pointer", 4), 8);
  EXPECT_EQ(r.get<int>("lambda", 4), 104);
  EXPECT_EQ(r.get<int>("mutable lambda"), 1);
  EXPECT_EQ(r.get<int>("mutable lambda"), 2);
  EXPECT_EQ(r.get<int>("functor"), 1);
  EXPECT_EQ(r.get<int>("std::function", 4), 8);
  EXPECT_EQ(r.get<int>("capturing coroutine", 4), 104);
  EXPECT_EQ(r.get<int>("move-only lambda"), 5);
}

TEST(Routines, AcceptEveryKindOfParameterAndResult) {
  Runner r;
  r.routines.add("const reference", [](const std::string& text) { return text + "!"; })
      .add("rvalue reference", [](std::string&& text) { return std::move(text) + "!"; })
      .add("view", [](std::string_view text) { return std::string(text) + "!"; })
      .add("bytes", [](std::span<const std::byte> bytes) { return bytes.size(); })
      .add("move-only", [](std::unique_ptr<int> value) { return value; })
      .add("several", [](int a, std::optional<int> b, std::map<std::string, int> c) { return a + *b + c.at("c"); })
      .add("struct", [](Point p) { return Point{p.y, p.x}; })
      .add("tuple", [] { return std::tuple(1, std::string("two")); })
      .add("reference to const", [text = std::string("kept")]() -> const std::string& { return text; })
      .add("coroutine by reference",
           [](const std::vector<int>& v, Point&& p) -> asio::awaitable<int> { co_return v.at(0) + p.x; });
  EXPECT_EQ(r.get<std::string>("const reference", "a"), "a!");
  EXPECT_EQ(r.get<std::string>("rvalue reference", "a"), "a!");
  EXPECT_EQ(r.get<std::string>("view", "a"), "a!");
  EXPECT_EQ(r.get<int>("bytes", std::vector<std::byte>(7)), 7);
  EXPECT_EQ(*r.get<std::unique_ptr<int>>("move-only", std::make_unique<int>(3)), 3);
  EXPECT_EQ(r.get<int>("several", 1, std::optional(2), std::map<std::string, int>{{"c", 3}}), 6);
  EXPECT_EQ(r.get<Point>("struct", Point{1, 2}).x, 2);
  EXPECT_EQ((r.get<std::tuple<int, std::string>>("tuple")), (std::tuple(1, std::string("two"))));
  EXPECT_EQ(r.get<std::string>("reference to const"), "kept");
  EXPECT_EQ(r.get<int>("coroutine by reference", std::vector{4}, Point{3, 0}), 7);
}

TEST(Routines, StopTokenIsNotPassedByTheCaller) {
  Runner r;
  r.routines.add("token", [](std::stop_token stop, int x) { return stop.stop_requested() ? x : -x; })
      .add("token by reference", [](const std::stop_token& stop) { return stop.stop_possible(); })
      .add("coroutine", [](std::stop_token stop) -> asio::awaitable<bool> { co_return stop.stop_requested(); })
      .add("without", [] {});
  EXPECT_EQ(r.get<int>("token", 3), -3);
  EXPECT_TRUE(r.get<bool>("token by reference"));
  r.stop.request_stop();
  EXPECT_EQ(r.get<int>("token", 3), 3);
  EXPECT_TRUE(r.get<bool>("coroutine"));
  const RoutineTable& table = RoutinesAccess::table(r.routines);
  EXPECT_TRUE(table.any_takes_stop_token());
  EXPECT_FALSE(table.find("without")->takes_stop_token());
  EXPECT_EQ(table.find("token")->parameters(), "(int)");
}

TEST(Routines, MayBeDeclared) {
  constexpr drover::Routine<int(int)> number{"number"};
  constexpr drover::Routine<std::string(const std::string&, int)> text{"text"};
  constexpr drover::Routine<long(std::vector<std::byte>)> bytes{"bytes"};
  constexpr drover::Routine<void(std::unique_ptr<int>)> none{"none"};
  struct Overloaded {
    int operator()(int x) const { return x + 1; }
    int operator()(const std::string&) const { return 0; }
  };
  const auto add_all = [&](Routines& routines, auto f, auto g, auto h, auto i) {
    routines.add(number, f).add(text, g).add(bytes, h).add(none, i);
  };
  Runner plain, coroutines, templates;
  add_all(
      plain.routines, twice, [](std::string_view t, int n) { return t.substr(0, std::size_t(n)); },
      [](std::span<const std::byte> b) { return b.size(); }, [](std::unique_ptr<int>&&) {});
  add_all(
      coroutines.routines, [](std::stop_token, int x) -> asio::awaitable<short> { co_return short(2 * x); },
      [](std::string t, int n) -> asio::awaitable<std::string> { co_return t.substr(0, std::size_t(n)); },
      [](const std::vector<std::byte>& b) -> asio::awaitable<long> { co_return long(b.size()); },
      [](const std::unique_ptr<int>&) -> asio::awaitable<void> { co_return; });
  add_all(
      templates.routines, Overloaded(), [](auto t, auto n) { return t.substr(0, std::size_t(n)); },
      [](std::stop_token, const auto& b) -> asio::awaitable<std::size_t> { co_return b.size(); }, [](auto&&...) {});
  EXPECT_EQ(templates.get<int>("number", 4), 5);
  EXPECT_EQ(plain.get<int>("number", 4), 8);
  EXPECT_EQ(coroutines.get<int>("number", 4), 8);
  for (Runner* const r : {&plain, &coroutines, &templates}) {
    EXPECT_EQ(r->get<std::string>("text", "abc", 2), "ab");
    EXPECT_EQ(r->get<int>("bytes", std::vector<std::byte>(7)), 7);
    r->run("none", std::make_unique<int>(1));
    EXPECT_EQ(r->status, ResultStatus::ok);
    EXPECT_NE(
        r->failure("text", 1, 2).at(0).find("text(std::string, int) was given other arguments: expected a string"),
        std::string::npos);
    EXPECT_EQ(r->status, ResultStatus::bad_arguments);
  }
  EXPECT_THROW(plain.routines.add(number, twice), std::invalid_argument);
}

TEST(Routines, ResultBecomesTheDeclaredOne) {
  using Either = std::variant<std::string, int>;
  constexpr drover::Routine<Either(int)> plain{"plain"}, coroutine{"coroutine"};
  Runner r;
  r.routines.add(plain, twice).add(coroutine, [](int x) -> asio::awaitable<int> { co_return x; });
  EXPECT_EQ(r.get<Either>("plain", 4), Either(8));
  EXPECT_EQ(r.get<Either>("coroutine", 4), Either(4));
}

TEST(Routines, DistinguishWrongArgumentsFromExceptions) {
  Runner r;
  bool called = false;
  r.routines.add("take", [&](int, const std::vector<double>&) { called = true; }).add("decodes by itself", [] {
    throw drover::DecodeError("of its own");
  });
  const std::string text = r.failure("take", "text", std::vector<double>{}).at(0);
  EXPECT_EQ(r.status, ResultStatus::bad_arguments);
  EXPECT_NE(text.find("take(int, std::vector<double"), std::string::npos) << text;
  r.failure("take", 1);
  EXPECT_EQ(r.status, ResultStatus::bad_arguments);
  r.failure("take", 1, std::vector<double>{}, 2);
  EXPECT_EQ(r.status, ResultStatus::bad_arguments);
  EXPECT_FALSE(called);
  EXPECT_EQ(r.failure("decodes by itself").at(1), "of its own");
  EXPECT_EQ(r.status, ResultStatus::remote_error);
}

TEST(Routines, ExceptionMayHaveNoText) {
  Runner r;
  r.routines.add("throw", [] { throw Silent(); })
      .add("take", [](Awkward) {})
      .add("coroutine", []() -> asio::awaitable<void> {
        throw Silent();
        co_return;
      });
  EXPECT_NE(r.failure("throw").at(0).find("Silent"), std::string::npos);
  EXPECT_EQ(r.failure("throw").at(1), "");
  EXPECT_EQ(r.status, ResultStatus::remote_error);
  EXPECT_EQ(r.failure("coroutine").at(1), "");
  EXPECT_EQ(r.status, ResultStatus::remote_error);
  EXPECT_NE(r.failure("take", Awkward()).at(0).find("was given other arguments: "), std::string::npos);
  EXPECT_EQ(r.status, ResultStatus::bad_arguments);
}

TEST(Routines, ArgumentsAreBoundedInMemory) {
  Runner r;
  r.routines.add("take", [](const std::vector<std::optional<std::array<double, 200>>>&) {});
  const std::string text = r.failure("take", std::vector<std::optional<std::array<double, 200>>>(50000)).at(0);
  EXPECT_EQ(r.status, ResultStatus::bad_arguments);
  EXPECT_NE(text.find("the value takes more memory than allowed"), std::string::npos) << text;
}

TEST(Routines, ErrorTextFitsEvenIfResultDoesNot) {
  Runner r;
  r.limit = 100;
  r.routines.add("large", [](int size) { return std::string(static_cast<std::size_t>(size), 'x'); })
      .add("long text", [] { throw std::runtime_error(std::string(10'000, 'x')); });
  EXPECT_EQ(r.get<std::string>("large", 50).size(), 50u);
  r.failure("large", 101);
  EXPECT_EQ(r.status, ResultStatus::message_too_large);
  for (r.limit = 0; r.limit < 2 * drover::detail::least_max_body; ++r.limit) {
    EXPECT_LE(r.run("long text").size(), std::max(r.limit, drover::detail::least_max_body));
    EXPECT_EQ(r.status, ResultStatus::remote_error);
  }
}

TEST(Routines, OperationAbortedIsAnErrorUnlessCancelled) {
  Runner r;
  r.routines.add("abort", [] { throw std::system_error(asio::error::operation_aborted); }).add("other", [] {
    throw std::system_error(asio::error::eof);
  });
  r.failure("abort");
  EXPECT_EQ(r.status, ResultStatus::remote_error);
  r.cancelled = true;
  r.failure("abort");
  EXPECT_EQ(r.status, ResultStatus::cancelled);
  r.failure("other");
  EXPECT_EQ(r.status, ResultStatus::remote_error);
}

TEST(TypeName, ReadsAsInSourceCode) {
  EXPECT_EQ(type_name<int>(), "int");
  EXPECT_NE(type_name<std::vector<int>>().find("std::vector<int"), std::string::npos);
  EXPECT_NE(type_name<Point>().find("Point"), std::string::npos);
  EXPECT_EQ(readable(type_name<std::string(std::string_view)>()), "std::string(std::string_view)");
  EXPECT_EQ(readable(type_name<long(unsigned long, short)>()), "long(unsigned long, short)");
  EXPECT_EQ(readable(type_name<long long(unsigned long long, unsigned short)>()),
            "long long(unsigned long long, unsigned short)");
}

TEST(IdQueue, KeepsTheOrderAcrossThreadsAndBlocks) {
  constexpr std::uint64_t count = 100'000;
  IdQueue queue;
  EXPECT_EQ(queue.pop(), std::nullopt);
  std::thread pusher([&] {
    for (std::uint64_t id = 1; id <= count; ++id) queue.push(id);
  });
  std::uint64_t popped = 0;
  while (popped < count) {
    if (const auto id = queue.pop()) {
      ASSERT_EQ(*id, ++popped);
    }
  }
  pusher.join();
  EXPECT_EQ(queue.pop(), std::nullopt);
  for (std::uint64_t id = 1; id <= 5000; ++id) queue.push(id);  // the queue is destroyed with some ids left
}

TEST(StopSources, StopOneOrAllThatAreRegistered) {
  StopSources sources;
  const auto first = sources.add(1), second = sources.add(2), third = sources.add(3);
  sources.stop(2);
  EXPECT_FALSE(first.stop_requested());
  EXPECT_TRUE(second.stop_requested());
  sources.remove(1);
  sources.stop(1);
  sources.remove(1);
  sources.stop_all();
  EXPECT_FALSE(first.stop_requested());
  EXPECT_TRUE(third.stop_requested());
}

// A call may use the memory of one that has ended.
TEST(StopSources, StopNoCallThatFollowsAnEndedOne) {
  StopSources sources;
  const auto ended = sources.add(1);
  sources.remove(1);
  const auto next = sources.add(2);
  sources.stop(1);
  EXPECT_FALSE(ended.stop_requested());
  EXPECT_FALSE(next.stop_requested());
  sources.stop(2);
  EXPECT_FALSE(ended.stop_requested());
  EXPECT_TRUE(next.stop_requested());
}

TEST(StopSources, StopEachOfManyAlone) {
  StopSources sources;
  std::map<std::uint64_t, std::stop_token> calls;
  for (std::uint64_t id = 1; id <= 200; ++id) calls.emplace(id, sources.add(id));
  for (std::uint64_t id = 1; id <= 200; id += 3) sources.remove(id);
  for (std::uint64_t id = 1; id <= 200; id += 2) sources.stop(id);
  for (const auto& [id, token] : calls) EXPECT_EQ(token.stop_requested(), id % 2 == 1 && id % 3 != 1) << id;
}

}  // namespace
