// The contents of frames, and the environment of a worker.
#include <gtest/gtest.h>
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
          .spin_ns = 4711,
          .shutdown_grace_ns = 10'000'000'000,
          .max_message_size = 64u << 20,
          .name = "image worker, 1 = best"};
}

TEST(Protocol, EnvironmentComesBackUnchanged) {
  EXPECT_EQ(WorkerEnvironment::parse(sample().to_string()), sample());
  WorkerEnvironment nameless = sample();
  nameless.name.clear();
  EXPECT_EQ(WorkerEnvironment::parse(nameless.to_string()), nameless);
}

TEST(Protocol, MalformedEnvironmentIsRefused) {
  const std::string text = sample().to_string();
  const std::size_t name_at = text.find("image");
  for (std::size_t size = 0; size < name_at; ++size) EXPECT_FALSE(WorkerEnvironment::parse(text.substr(0, size)));
  for (const char* bad :
       {"", "1", "yes", "1  3 1 1", "1 3 1 -1 4 1 1 -1 0 0 -1 0 0 1 1 1 x",
        "1 99999999999999999999 1 1 4 1 1 -1 0 0 -1 0 0 1 1 1 x", " 1 3 1 1 4 1 1 -1 0 0 -1 0 0 1 1 1 0 x"})
    EXPECT_FALSE(WorkerEnvironment::parse(bad)) << bad;
  EXPECT_TRUE(WorkerEnvironment::parse("1 3 1 1 4 1 1 -1 0 0 -1 0 0 1 1 1 0 x"));
  // A worker of another version must know that it is a worker, or its main() would go on as if it were the parent's.
  EXPECT_TRUE(WorkerEnvironment::parse("2 3 1 1 4 1 1 -1 0 0 -1 0 0 1 1 1 0 x"));
}

}  // namespace
