// Streams against a worker that sends whatever the test wants: what is legal, and what ends the worker.
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

#include <asio/bind_cancellation_slot.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/co_spawn.hpp>

#include <drover/pool/stream.hpp>
#include <drover/wire/detail/stream_credit.hpp>

#include "support/fake_worker.hpp"

namespace {

using namespace support;
using drover::Stream;
using drover::detail::CreditBody;
using drover::detail::stream_window;

struct End {  // of an operation
  bool over = false;
  std::string error{};
  std::error_code code{};
  asio::cancellation_signal cancellation{};
};

std::size_t open_memory() { return ::mallinfo2().uordblks + ::mallinfo2().hblkhd; }

class StreamFrames : public FakeWorkers {
 protected:
  template <class Out, class In = void>
  Stream<int, Out, In> stream(CallOptions options = {}) {
    return drover::detail::begin_stream_of<Stream<int, Out, In>>(dispatcher_, options, "f", 1);
  }
  template <class T>
  struct Operation : End {
    std::optional<T> value{};
  };
  template <class T>
  std::shared_ptr<Operation<T>> start(asio::awaitable<T> work) {
    auto operation = std::make_shared<Operation<T>>();
    const auto ended = [operation](std::exception_ptr failure, T value) {
      operation->over = true;
      failure ? note(*operation, failure) : void(operation->value = std::move(value));
    };
    asio::co_spawn(context_, std::move(work), asio::bind_cancellation_slot(operation->cancellation.slot(), ended));
    run();
    return operation;
  }
  static void note(End& end, std::exception_ptr failure) {
    try {
      std::rethrow_exception(failure);
    } catch (const std::system_error& e) {
      end.code = e.code();
      end.error = e.what();
    } catch (const std::exception& e) {
      end.error = e.what();
    }
  }

  static FrameHeader for_call(FrameType type, const FrameHeader& call) {
    return {.type = type, .slot = call.slot, .id = call.id};
  }
  static std::vector<std::byte> encoded(const auto& value) {
    drover::detail::ByteBuffer buffer;
    drover::Encoder(buffer).put(value);
    return {buffer.view().begin(), buffer.view().end()};
  }
  static std::vector<std::byte> credit_of(std::uint64_t bytes) {
    const CreditBody credit{.bytes = bytes};
    const auto body = drover::detail::encode_body(credit);
    return {body.begin(), body.end()};
  }
  /// The credit that the parent has granted.
  static std::uint64_t granted_by(FakeWorker& worker) {
    std::uint64_t bytes = 0;
    while (const auto frame = worker.next_frame()) {
      EXPECT_EQ(frame->first.type, FrameType::credit);
      bytes += drover::detail::decode_body<CreditBody>(frame->second).value().bytes;
    }
    return bytes;
  }
  /// The text of a protocol_error.
  static std::string why(const FakeWorker& worker) {
    End end;
    if (worker.failure) note(end, worker.failure);
    EXPECT_EQ(end.code, Errc::protocol_error) << end.error;
    return end.error;
  }
};

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

// ---- the caller's items ---------------------------------------------------------------------------------------------

TEST_F(StreamFrames, WriterWaitsForCreditAndSendsNoMore) {
  FakeWorker worker(context_, dispatcher_);
  auto stream = this->stream<void, std::string>();
  const auto call = worker.next();
  ASSERT_TRUE(call);
  const auto first = start(stream.send("one"));
  EXPECT_FALSE(first->over);
  EXPECT_THROW((void)stream.send("two"), std::logic_error);
  ASSERT_TRUE(worker.send(for_call(FrameType::credit, call->header), credit_of(1)));
  run();
  EXPECT_EQ(first->value, true);
  const auto frame = worker.next_frame();
  ASSERT_TRUE(frame);
  EXPECT_EQ(frame->first.type, FrameType::item);
  EXPECT_EQ(frame->second, encoded(std::string("one")));
  const auto second = start(stream.send("two"));
  EXPECT_FALSE(second->over);
  second->cancellation.emit(asio::cancellation_type::terminal);
  run();
  EXPECT_EQ(second->code, asio::error::operation_aborted);
  const auto third = start(stream.send("three"));
  stream.finish();
  ASSERT_TRUE(worker.send(for_call(FrameType::credit, call->header), credit_of(1000)));
  run();
  EXPECT_EQ(third->value, true);
  const auto item = worker.next_frame(), end = worker.next_frame();
  ASSERT_TRUE(item && end);
  EXPECT_EQ(item->second, encoded(std::string("three"))) << "the cancelled one is not sent";
  EXPECT_EQ(end->first.type, FrameType::finish);
  worker.answer(*call);
  EXPECT_EQ(start(stream.result())->value, 10);
}

// The awaitable of a coroutine that is cancelled already is dropped in the same way.
TEST_F(StreamFrames, WriterThatDoesNotWaitSendsNothing) {
  FakeWorker worker(context_, dispatcher_);
  auto stream = this->stream<void, std::string>();
  const auto call = worker.next();
  ASSERT_TRUE(call);
  (void)stream.send("one");
  const auto second = start(stream.send("two"));
  EXPECT_FALSE(second->over);
  ASSERT_TRUE(worker.send(for_call(FrameType::credit, call->header), credit_of(1000)));
  run();
  EXPECT_EQ(second->value, true);
  const auto frame = worker.next_frame();
  ASSERT_TRUE(frame);
  EXPECT_EQ(frame->second, encoded(std::string("two")));
  worker.answer(*call);
  EXPECT_EQ(start(stream.result())->value, 10);
}

TEST_F(StreamFrames, WriterIsToldThatTheRoutineHasReturned) {
  FakeWorker worker(context_, dispatcher_);
  auto stream = this->stream<void, std::string>();
  const auto call = worker.next();
  ASSERT_TRUE(call);
  const auto waits = start(stream.send("one"));
  worker.answer(*call);
  run();
  EXPECT_EQ(waits->value, false);
  EXPECT_EQ(start(stream.send("two"))->value, false);
  stream.finish();
  EXPECT_FALSE(worker.next_frame());
  EXPECT_EQ(start(stream.result())->value, 10);
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

TEST_F(StreamFrames, OfAnEmptyHandleFails) {
  auto stream = drover::detail::begin_stream_of<Stream<int, int, int>>(nullptr, CallOptions{}, "f", 1);
  EXPECT_EQ(start(stream.next())->code, Errc::not_running);
  EXPECT_EQ(start(stream.result())->code, Errc::not_running);
  EXPECT_THROW((void)stream.send(1), drover::Error);
  stream.finish();
  stream.cancel();
}

}  // namespace
