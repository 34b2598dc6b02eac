// The contents of frames, and the environment of a worker.
#include <cstdint>
#include <gtest/gtest.h>
#include <limits>
#include <string>
#include <sys/socket.h>
#include <unistd.h>

#include <drover/os/fd.hpp>
#include <drover/wire/protocol.hpp>

namespace {

using namespace drover::detail;

TEST(Protocol, IdOfHelloCarriesTheVersion) {
  EXPECT_EQ(hello_version(hello_id()), protocol_version);
  EXPECT_EQ(hello_version(hello_id(7)), 7u);
  EXPECT_EQ(hello_version(1), std::nullopt);
  EXPECT_EQ(hello_version(~std::uint64_t{0}), std::nullopt);
}

TEST(Protocol, HelloComesBackUnchanged) {
  ByteBuffer bytes;
  drover::Encoder(bytes).put(Hello{"1.2.3", {"square", "echo"}});
  const Hello hello = decode_hello(bytes.view());
  EXPECT_EQ(hello.version, "1.2.3");
  EXPECT_EQ(hello.routines, (std::vector<std::string>{"square", "echo"}));
}

std::string refusal_of_hello(const Hello& hello, std::size_t cut = 0) {
  ByteBuffer bytes;
  drover::Encoder(bytes).put(hello);
  try {
    decode_hello(bytes.view().first(bytes.size() - cut));
    return "";
  } catch (const drover::DecodeError& error) {
    return error.what();
  }
}

TEST(Protocol, HelloBoundsTheNumberOfRoutines) {
  EXPECT_EQ(refusal_of_hello({"1", std::vector<std::string>(max_routines, std::string(64, 'x'))}), "");
  const std::string text = "it announces 1000000 routines, at most 16384 are allowed";
  EXPECT_EQ(refusal_of_hello({"1", std::vector<std::string>(1000000)}), text);
  EXPECT_EQ(refusal_of_hello({"1", std::vector<std::string>(1000000)}, 10),
            "message cut off: a length goes beyond its end");
  EXPECT_EQ(refusal_of_hello({"1", std::vector<std::string>(1000000, "x")}, 10), text);  // before the names are read
  EXPECT_NE(refusal_of_hello({"1", {"a"}}, 1), "");
}

TEST(Protocol, BodiesOfAnotherSizeAreRefused) {
  const StopBody stop{.drain_until = 5, .end_by = never};
  const auto bytes = encode_body(stop);
  const auto back = decode_body<StopBody>(bytes);
  ASSERT_TRUE(back);
  EXPECT_EQ(back->drain_until, 5);
  EXPECT_EQ(back->end_by, never);
  EXPECT_FALSE(decode_body<StopBody>(bytes.first(15)));
  EXPECT_FALSE(decode_body<StopBody>({}));
  EXPECT_FALSE(decode_body<StopReply>(bytes));
  const StatusReply status{.in_flight = 1, .idle_ns = 2, .served = 3};
  EXPECT_EQ(decode_body<StatusReply>(encode_body(status))->served, 3u);
  static_assert(sizeof(StopReply) == 24 && sizeof(StatusReply) == 24);
}

WorkerEnvironment sample() {
  return {.control = {3, 10, ~std::uint64_t{0}},
          .data = {4, 10, 12},
          .parent = {},
          .lock = {5, 1, 2},
          .forks = {6, 10, 14},
          .spin_ns = 4711,
          .shutdown_grace_ns = 10'000'000'000,
          .max_message_size = 64u << 20,
          .stall_ns = 1'500'000'000,
          .worker = {.slot = 7,
                     .name = "image worker, 1 = best",
                     .tags = {"gpu", "very big"},
                     .extra = {{"zone", "north"}, {"rack", ""}}}};
}

TEST(Protocol, EnvironmentComesBackUnchanged) {
  EXPECT_EQ(WorkerEnvironment::parse(sample().to_string()), sample());
  WorkerEnvironment bare = sample();
  bare.worker = {};
  EXPECT_EQ(WorkerEnvironment::parse(bare.to_string()), bare);
}

// An environment holds neither NUL nor, in this variable, an unescaped space. Everything else is as it was.
TEST(Protocol, EnvironmentCarriesAnyText) {
  std::string all;
  for (int c = 0; c < 256; ++c) all += static_cast<char>(c);
  WorkerEnvironment odd = sample();
  odd.worker = {.name = all,
                .tags = {"", " ", "%", "%20", "a=b", std::string("\0", 1), std::string("\0\0", 2), "\xff\xfe", all},
                .extra = {{"", ""}, {" ", "%"}, {"%00", std::string("\0 1 2", 5)}, {all, all + all}, {"\n", "\r\n"}}};
  const std::string text = odd.to_string();
  EXPECT_EQ(text.find('\0'), std::string::npos);
  EXPECT_EQ(WorkerEnvironment::parse(text), odd);
}

// What start() computes in advance is what the variable takes.
TEST(Protocol, SizeOfTheEnvironmentIsKnownBefore) {
  for (const std::string& value : {std::string(), std::string("%% \0x", 5), std::string(1000, '\0')}) {
    std::string with, without;
    append_info(without, {});
    append_info(with, {.extra = {{"key", value}}});
    EXPECT_EQ(with.size() - without.size(), size_of_text("key") + size_of_text(value));
  }
  WorkerEnvironment longest = sample();
  const InheritedFd fd{2147483647, ~std::uint64_t{0}, ~std::uint64_t{0}};
  longest.control = longest.data = longest.parent = longest.lock = longest.forks = fd;
  longest.spin_ns = longest.shutdown_grace_ns = longest.stall_ns = std::numeric_limits<std::int64_t>::min();
  longest.max_message_size = ~std::uint64_t{0};
  longest.worker = {.slot = ~std::size_t{0}, .tags = {std::string(most_worker_info - 2, 'x')}};
  EXPECT_LE(std::string(environment_name).size() + 1 + longest.to_string().size(), longest_variable);
}

TEST(Protocol, MalformedEnvironmentIsRefused) {
  const std::string text = sample().to_string();
  for (std::size_t size = 0; size < text.size(); ++size) EXPECT_FALSE(WorkerEnvironment::parse(text.substr(0, size)));
  const std::string good = "1 3 1 1 4 1 1 -1 0 0 -1 0 0 -1 0 0 1 1 1 0 0 ";  // up to the slot
  EXPECT_TRUE(WorkerEnvironment::parse(good + "0 0 0 x "));
  EXPECT_TRUE(WorkerEnvironment::parse(good + "0 1 1 x t k v "));
  for (const char* bad :
       {"", "0", "0 0 0 ", "0 0 0 x", "-1 0 0 x ", "0 1 0 x ", "0 0 1 x k ", "0 18446744073709551615 0 x ",
        "0 0 18446744073709551615 x k v ", "0 99999999999999999999 0 x t ", "0 0 0 % ", "0 0 0 %2 ", "0 0 0 %2g ",
        "0 0 0 %g0 ", "0 0 0 %-1 ", "0 0 0 %+1 ", "0 1 0 x %zz "})
    EXPECT_FALSE(WorkerEnvironment::parse(good + bad)) << bad;
  for (const char* bad : {"", "1", "yes", "1  3 1 1", "1 3 1 -1 4 1 1 -1 0 0 -1 0 0 -1 0 0 1 1 1 0 0 0 0 0 x ",
                          "1 99999999999999999999 1 1 4 1 1 -1 0 0 -1 0 0 -1 0 0 1 1 1 0 0 0 0 0 x ",
                          " 1 3 1 1 4 1 1 -1 0 0 -1 0 0 -1 0 0 1 1 1 0 0 0 0 0 x ",
                          "1 3 1 1 4 1 1 -1 0 0 -1 0 0 -1 0 0 1 1 1 3 0 0 0 0 x "})
    EXPECT_FALSE(WorkerEnvironment::parse(bad)) << bad;
  // A worker of another version must know that it is a worker, or its main() would go on as if it were the parent's.
  EXPECT_TRUE(WorkerEnvironment::parse("2 3 1 1 4 1 1 -1 0 0 -1 0 0 -1 0 0 1 1 1 0 0 0 0 0 x "));
}

}  // namespace
