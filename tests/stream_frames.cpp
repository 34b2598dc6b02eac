// Streams against a worker that sends whatever the test wants: what is legal, and what ends the worker.
#include "support/stream_frames.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <gtest/gtest.h>
#include <malloc.h>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace {

using namespace support;

std::size_t open_memory() { return ::mallinfo2().uordblks + ::mallinfo2().hblkhd; }

TEST_F(StreamFrames, ItemsComeInOrderAndCreditGoesBack) {
  FakeWorker worker(context_, dispatcher_);
  auto stream = this->stream<std::string>();
  const auto call = worker.next();
  ASSERT_TRUE(call);
  EXPECT_EQ(call->header.status & drover::detail::items_out_flag, drover::detail::items_out_flag);
  std::uint64_t sent = 0, granted = 0;
  for (int i = 0; i < 100; ++i) {
    const auto item = encoded(std::string(10'000, static_cast<char>('a' + i % 26)));
    ASSERT_TRUE(worker.send(for_call(FrameType::item, call->header), item));
    sent += drover::detail::cost_of_item(item.size());
    const auto next = start(stream.next());
    ASSERT_TRUE(next->value && *next->value);
    EXPECT_EQ((*next->value)->at(0), 'a' + i % 26);
    granted += granted_by(worker);
  }
  EXPECT_TRUE(granted <= sent && granted > sent - stream_window / 2) << granted;
  worker.answer(*call);
  EXPECT_EQ(start(stream.result())->value, 10);
}

// Each ends the worker, with a text that says what was wrong.
TEST_F(StreamFrames, NonsenseForACallThatRunsIsAProtocolError) {
  const auto item = encoded(std::string("x"));
  struct Nonsense {
    const char* what;
    FrameType type;
    std::vector<std::byte> body;
    const char* text;
  };
  const auto check = [&](auto begin, const Nonsense& nonsense) {
    SCOPED_TRACE(nonsense.what);
    FakeWorker worker(context_, dispatcher_);
    worker.expects_failure = true;
    auto stream = begin();
    const auto call = worker.next();
    ASSERT_TRUE(call);
    EXPECT_FALSE(worker.send(for_call(nonsense.type, call->header), nonsense.body));
    const std::string text = why(worker);
    EXPECT_NE(text.find("worker 'fake'"), std::string::npos) << text;
    EXPECT_NE(text.find(nonsense.text), std::string::npos) << text;
    worker.die();
    run();
  };
  const auto out = [&] { return stream<std::string>(); };
  const auto in = [&] { return stream<void, std::string>(); };
  const char* const no_credit = "granted credit that makes no sense";
  check(in, {"an item for a call that takes none", FrameType::item, item, "sent an item for a call without any"});
  check(in, {"a value for a call that takes none", FrameType::latest, item, "sent an item for a call without any"});
  check(out, {"credit for a call that sends nothing", FrameType::credit, credit_of(100), no_credit});
  check(in, {"credit of nothing", FrameType::credit, credit_of(0), no_credit});
  check(in, {"too much credit", FrameType::credit, credit_of(stream_window + 1), no_credit});
  check(in, {"far too much credit", FrameType::credit, credit_of(~std::uint64_t{0}), no_credit});
  check(in, {"credit without a number", FrameType::credit, {}, no_credit});
  check(in, {"credit with a long number", FrameType::credit, std::vector<std::byte>(9), no_credit});
  check(out, {"the end of the caller's items", FrameType::finish, {}, "unexpected frame"});
}

TEST_F(StreamFrames, ItemsForAnotherCallAreAProtocolError) {
  const auto item = encoded(std::string("x"));
  for (const FrameType type : {FrameType::item, FrameType::latest, FrameType::credit, FrameType::finish}) {
    for (const bool known : {true, false}) {
      FakeWorker worker(context_, dispatcher_);
      worker.expects_failure = true;
      call(1);
      const auto plain = worker.next();
      ASSERT_TRUE(plain);
      FrameHeader header = for_call(type, plain->header);
      if (!known) ++header.id;
      EXPECT_FALSE(worker.send(header, item));
      const std::string text = why(worker);
      if (known || type == FrameType::finish)
        EXPECT_NE(text.find("sent an unexpected frame for call"), std::string::npos) << text;
      else
        EXPECT_NE(text.find("sent an item or credit for unknown call " + std::to_string(header.id)), std::string::npos)
            << text;
      worker.die();
      run();
    }
  }
}

TEST_F(StreamFrames, ItemsWithoutCreditAreAProtocolError) {
  FakeWorker worker(context_, dispatcher_);
  worker.expects_failure = true;
  auto stream = this->stream<std::string>();
  const auto call = worker.next();
  ASSERT_TRUE(call);
  const auto item = encoded(std::string(10'000, 'x'));
  std::uint64_t sent = 0;
  int items = 0;  // as many as the credit allows
  for (; sent < stream_window; ++items) {
    ASSERT_TRUE(worker.send(for_call(FrameType::item, call->header), item));
    sent += drover::detail::cost_of_item(item.size());
  }
  EXPECT_FALSE(worker.send(for_call(FrameType::item, call->header), item));
  EXPECT_NE(why(worker).find("sent more items than it may"), std::string::npos);
  worker.die();
  for (int i = 0; i < items; ++i) {
    const auto next = start(stream.next());
    ASSERT_TRUE(next->value && *next->value) << "what it had sent before is delivered";
  }
  EXPECT_EQ(start(stream.next())->code, Errc::worker_exited);
  EXPECT_EQ(start(stream.result())->code, Errc::worker_exited);
}

// The reader must not take the items that it has for all of them.
TEST_F(StreamFrames, ReaderWhoseStreamIsDestroyedIsAborted) {
  const auto inside = std::make_shared<drover::detail::CallStream>(dispatcher_, drover::detail::items_out_flag);
  auto stream = std::make_optional<Stream<int, int>>(inside);
  const auto read = start(stream->next());
  EXPECT_FALSE(read->over);
  inside->end(std::make_exception_ptr(drover::Error(Errc::worker_exited, "the worker has exited")));
  stream.reset();  // the reader has not resumed yet
  run();
  EXPECT_TRUE(read->over);
  EXPECT_EQ(read->code, asio::error::operation_aborted);
}

// The flood is read, but the value that is kept is one.
TEST_F(StreamFrames, FloodOfLatestValuesTakesNoMemory) {
  FakeWorker worker(context_, dispatcher_);
  auto stream = this->stream<std::string>();
  const auto call = worker.next();
  ASSERT_TRUE(call);
  const auto large = encoded(std::string(500'000, 'x'));
  const auto before = open_memory();
  for (int i = 0; i < 300; ++i) ASSERT_TRUE(worker.send(for_call(FrameType::latest, call->header), large));
  EXPECT_LT(open_memory(), before + 8'000'000);
  ASSERT_TRUE(worker.send(for_call(FrameType::latest, call->header), encoded(std::string("last"))));
  const auto next = start(stream.next());
  ASSERT_TRUE(next->value && *next->value);
  EXPECT_EQ(**next->value, "last");
  EXPECT_EQ(granted_by(worker), 0u);
  worker.answer(*call);
  EXPECT_EQ(start(stream.result())->value, 10);
}

// Its caller has gone: items are dropped, without credit, until the worker has seen the CANCEL.
TEST_F(StreamFrames, ItemsForAnAbandonedCallAreDropped) {
  FakeWorker worker(context_, dispatcher_);
  std::optional<Stream<int, std::string, std::string>> stream = this->stream<std::string, std::string>();
  const auto call = worker.next();
  ASSERT_TRUE(call);
  stream.reset();
  run();
  EXPECT_EQ(worker.cancelled.size(), 1u);
  const auto item = encoded(std::string(10'000, 'x'));
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(worker.send(for_call(FrameType::item, call->header), item));
  ASSERT_TRUE(worker.send(for_call(FrameType::latest, call->header), item));
  ASSERT_TRUE(worker.send(for_call(FrameType::credit, call->header), credit_of(stream_window)));
  EXPECT_FALSE(worker.next_frame());
  worker.answer(*call);
  EXPECT_EQ(in_flight(), 0u);
  worker.expects_failure = true;
  EXPECT_FALSE(worker.send(for_call(FrameType::item, call->header), item)) << "after its RESULT";
  EXPECT_NE(why(worker).find("unknown call"), std::string::npos);
}

TEST_F(StreamFrames, ItemsOfTheLargestSizeArePassedOn) {
  FakeWorker worker(context_, dispatcher_);
  auto stream = this->stream<std::string>();
  const auto call = worker.next();
  ASSERT_TRUE(call);
  const std::string text((1 << 20) - 9, 'x');
  const auto item = encoded(text);
  ASSERT_EQ(item.size(), std::size_t{1} << 20);
  ASSERT_TRUE(worker.send(for_call(FrameType::item, call->header), item));
  const auto next = start(stream.next());
  ASSERT_TRUE(next->value);
  EXPECT_TRUE(*next->value == text);
  EXPECT_EQ(granted_by(worker), drover::detail::cost_of_item(item.size()));
  worker.answer(*call);
  EXPECT_EQ(start(stream.result())->value, 10);
}

// A call whose stream has begun can't be given back, whatever the worker says.
TEST_F(StreamFrames, DrainingDoesNotTakeBackWhatHasBegun) {
  FakeWorker worker(context_, dispatcher_, 2);
  auto begun = stream<std::string>(), waits = stream<std::string>();
  const auto first = worker.next(), second = worker.next();
  ASSERT_TRUE(first && second);
  ASSERT_TRUE(worker.send(for_call(FrameType::item, first->header), encoded(std::string("x"))));
  {
    const auto held = dispatcher_->lock();
    worker.link.take_calls(false);
    dispatcher_->take_back(worker.link, 0);
  }
  FakeWorker other(context_, dispatcher_, 2);
  const auto again = other.next();
  ASSERT_TRUE(again) << "the other one has not begun";
  EXPECT_FALSE(other.next());
  EXPECT_EQ(in_flight(), 2u);
  worker.die();
  run();
  const auto item = start(begun.next());
  ASSERT_TRUE(item->value && *item->value);
  EXPECT_EQ(start(begun.next())->code, Errc::worker_exited);
  ASSERT_TRUE(other.send(for_call(FrameType::item, again->header), encoded(std::string("y"))));
  other.answer(*again);
  const auto other_item = start(waits.next());
  ASSERT_TRUE(other_item->value && *other_item->value);
  EXPECT_EQ(**other_item->value, "y");
  EXPECT_EQ(start(waits.result())->value, 10);
}

TEST_F(StreamFrames, IsMadeAgainOnlyIfNothingHasComeAndGone) {
  CallOptions options;
  options.retry = {.attempts = 2};
  const auto item = encoded(std::string("x"));
  for (const FrameType type : {FrameType::result, FrameType::item, FrameType::latest, FrameType::credit}) {
    auto worker = std::make_unique<FakeWorker>(context_, dispatcher_);
    auto stream = this->stream<std::string, std::string>(options);
    const auto call = worker->next();
    ASSERT_TRUE(call);
    if (type != FrameType::result) {
      ASSERT_TRUE(worker->send(for_call(type, call->header), type == FrameType::credit ? credit_of(100) : item));
    }
    worker->die();
    FakeWorker other(context_, dispatcher_);
    run();
    const auto again = other.next();
    EXPECT_EQ(again.has_value(), type == FrameType::result);
    if (again) other.answer(*again);
    const auto result = start(stream.result());
    EXPECT_TRUE(again ? result->value == 10 : result->code == Errc::worker_exited) << result->error;
  }
}

// A decoded item may take as much memory as a result, also while the call runs.
TEST_F(StreamFrames, ItemMayTakeTheMemoryThatAResultMay) {
  using Sparse = std::vector<std::optional<std::array<std::uint64_t, 256>>>;
  drover::WorkerOptions options;
  options.max_message_size = 1u << 30;
  const auto dispatcher = Dispatcher::create(context_.get_executor(), options, std::nullopt);
  {
    FakeWorker worker(context_, dispatcher);
    auto stream = drover::detail::begin_stream_of<Stream<int, Sparse>>(dispatcher, CallOptions{}, "f", 1);
    const auto call = worker.next();
    ASSERT_TRUE(call);
    const auto item = encoded(Sparse(20'000));  // 40 MB
    ASSERT_LT(item.size(), 100'000u);
    ASSERT_TRUE(worker.send(for_call(FrameType::item, call->header), item));
    const auto next = start(stream.next());
    EXPECT_EQ(next->error, "");
    worker.answer(*call);
    EXPECT_EQ(start(stream.result())->value, 10);
  }
  dispatcher->close();
}

}  // namespace
