// Streams without memory: each single allocation of a scenario fails. Whatever has failed says so, or goes on later.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <gtest/gtest.h>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <asio/co_spawn.hpp>

#include <drover/pool/stream.hpp>
#include <drover/wire/detail/stream_credit.hpp>

#include "support/failing_step.hpp"
#include "support/fake_worker.hpp"

namespace {

int first = 0;  // allocation of the step that fails

}  // namespace

namespace {

using namespace support;
using drover::Stream;
using drover::detail::stream_window;

class StreamMemory : public FakeWorkers {
 protected:
  using Both = Stream<int, std::string, std::string>;

  /// A stream with a worker that has granted credit.
  struct Open {
    explicit Open(StreamMemory& test)
        : worker(test.context_, test.dispatcher_),
          stream(drover::detail::begin_stream_of<Both>(test.dispatcher_, CallOptions{}, "f", 1)) {
      call = worker.next().value();
      worker.expects_failure = true;
      credit(stream_window);
    }
    FrameHeader header(FrameType type) const { return {.type = type, .slot = call.header.slot, .id = call.header.id}; }
    void credit(std::uint64_t bytes) {
      const drover::detail::CreditBody body{.bytes = bytes};
      EXPECT_TRUE(worker.send(header(FrameType::credit), drover::detail::encode_body(body)));
    }
    bool item(std::size_t size) {
      drover::detail::ByteBuffer body;
      drover::Encoder(body).put(std::string(size, 'x'));
      return worker.send(header(FrameType::item), body.view());
    }

    FakeWorker worker;
    Both stream;
    Received call;
  };

  /// Runs `step` once for each of its allocations, which fails. `check` looks at what is left, with all the memory.
  static void sweep(const std::function<void()>& prepare, const std::function<void()>& step,
                    const std::function<void(bool threw)>& check) {
    first = 0;
    do {
      SCOPED_TRACE(first);
      prepare();
      failed = false;
      bool threw = false;
      spared = first;
      try {
        step();
      } catch (const std::bad_alloc&) {
        threw = true;
      }
      spared = -1;
      check(threw);
    } while (failed && ++first < 200);
    EXPECT_GT(first, 0) << "nothing was allocated";
    EXPECT_LT(first, 200);
  }

  template <class T>
  struct Operation {
    bool over = false;
    std::exception_ptr failure{};
    std::optional<T> value{};
  };
  template <class T>
  std::shared_ptr<Operation<T>> start(asio::awaitable<T> work) {
    auto operation = std::make_shared<Operation<T>>();
    asio::co_spawn(context_, std::move(work), [operation](std::exception_ptr failure, T value) {
      operation->over = true;
      operation->failure = failure;
      if (!failure) operation->value = std::move(value);
    });
    run();
    return operation;
  }
};

/// Takes so many items. No awaitable waits.
asio::awaitable<bool> read_without_memory(Stream<int, std::string, std::string>& stream, int items) {
  spared = first;
  for (; items != 0; --items) {
    try {
      (void)co_await stream.next();
    } catch (const std::bad_alloc&) {
    }
  }
  spared = -1;
  co_return true;
}

// The first one's item has gone, but its coroutine has not been resumed yet.
TEST_F(StreamMemory, WriterMayComeBeforeAnotherOneIsResumed) {
  FakeWorker worker(context_, dispatcher_);
  auto stream = drover::detail::begin_stream_of<Both>(dispatcher_, CallOptions{}, "f", 1);
  const auto call = worker.next();
  ASSERT_TRUE(call);
  const auto grant = [&](std::uint64_t bytes) {
    const drover::detail::CreditBody body{.bytes = bytes};
    const FrameHeader header{.type = FrameType::credit, .slot = call->header.slot, .id = call->header.id};
    EXPECT_TRUE(worker.send(header, drover::detail::encode_body(body)));
  };
  const auto one = start(stream.send("one"));
  grant(1);
  const auto two = start(stream.send("two"));
  EXPECT_EQ(one->value, true);
  grant(100);
  run();
  EXPECT_EQ(two->value, true);
  worker.answer(*call);
  EXPECT_EQ(start(stream.result())->value, 10);
}

// An item whose send() has failed is not sent, one whose send() has not is, and the stream goes on.
TEST_F(StreamMemory, ItemIsSentOrRefused) {
  std::unique_ptr<Open> open;
  std::optional<asio::awaitable<bool>> sent;
  sweep([&] { open = std::make_unique<Open>(*this); }, [&] { sent.emplace(open->stream.send("item")); },
        [&](bool threw) {
          sent.reset();
          run();
          EXPECT_EQ(open->worker.next_frame().has_value(), !threw);
          EXPECT_EQ(start(open->stream.send("next"))->value, true);
          open->stream.finish();
          run();
          const auto item = open->worker.next_frame(), end = open->worker.next_frame();
          ASSERT_TRUE(item && end);
          EXPECT_EQ(end->first.type, FrameType::finish);
          open.reset();
          run();
        });
}

TEST_F(StreamMemory, ItemWaitsForCreditOrIsRefused) {
  std::unique_ptr<Open> open;
  std::optional<asio::awaitable<bool>> sent;
  sweep(
      [&] {
        open = std::make_unique<Open>(*this);
        EXPECT_EQ(start(open->stream.send(std::string(stream_window, 'x')))->value, true);
        run();
        open->worker.read();
        for (bool all = false; !all;) {
          all = open->worker.next_frame().has_value();
          run();
        }
      },
      [&] { sent.emplace(open->stream.send("item")); },
      [&](bool threw) {
        if (threw) {
          sent.emplace(open->stream.send("another"));  // nobody waits
          open->credit(1000);
          run();
          EXPECT_TRUE(open->worker.next_frame());
          EXPECT_FALSE(open->worker.next_frame()) << "the one that was refused was sent";
        }
        sent.reset();
        open.reset();
        run();
      });
}

TEST_F(StreamMemory, EndIsSentOrRefused) {
  std::unique_ptr<Open> open;
  sweep([&] { open = std::make_unique<Open>(*this); }, [&] { open->stream.finish(); },
        [&](bool threw) {
          if (threw) open->stream.finish();
          run();
          const auto end = open->worker.next_frame();
          ASSERT_TRUE(end);
          EXPECT_EQ(end->first.type, FrameType::finish);
          EXPECT_FALSE(open->worker.next_frame());
          open.reset();
          run();
        });
}

// Whatever fails while the reader takes items, the worker gets its credit back, and can go on.
TEST_F(StreamMemory, CreditIsNotLost) {
  std::unique_ptr<Open> open;
  std::shared_ptr<Operation<std::optional<std::string>>> last;
  constexpr std::size_t size = 20'000;
  std::uint64_t sent = 0, granted = 0;
  int items = 0;
  std::shared_ptr<Operation<bool>> read;
  sweep(
      [&] {
        open = std::make_unique<Open>(*this);
        sent = granted = 0;
        items = 0;
        for (; sent < stream_window; ++items, sent += drover::detail::cost_of_item(size + 4))
          ASSERT_TRUE(open->item(size));
      },
      [&] {
        spared = -1;  // Asio's own start of a coroutine is not prepared for that
        read = start(read_without_memory(open->stream, items));
      },
      [&](bool) {
        ASSERT_TRUE(read->over);
        // With memory it reads on, until nothing is left.
        do last = start(open->stream.next());
        while (last->over);
        while (const auto frame = open->worker.next_frame()) {
          ASSERT_EQ(frame->first.type, FrameType::credit);
          granted += drover::detail::decode_body<drover::detail::CreditBody>(frame->second).value().bytes;
        }
        EXPECT_GT(granted, sent - stream_window / 2) << "its worker waits for ever";
        open.reset();
        run();
      });
}

// Each way to begin: there is a stream that ends, or an exception, and nothing is left.
TEST_F(StreamMemory, CallBeginsOrFails) {
  std::unique_ptr<FakeWorker> worker;
  std::optional<Both> stream;
  sweep(
      [&] {
        worker = std::make_unique<FakeWorker>(context_, dispatcher_);
        worker->expects_failure = true;
      },
      [&] { stream.emplace(drover::detail::begin_stream_of<Both>(dispatcher_, CallOptions{}, "f", 1)); },
      [&](bool) {
        run();
        const auto call = worker->next();
        if (call) worker->answer(*call);
        run();
        if (stream) {
          const auto result = start(stream->result());
          EXPECT_TRUE(result->over);
          EXPECT_NE(result->value.has_value(), result->failure != nullptr);
        }
        stream.reset();
        worker->die();
        worker.reset();
        run();
        EXPECT_EQ(in_flight(), 0u);
      });
}

// A destructor neither throws nor ends the program.
TEST_F(StreamMemory, StreamCanBeDestroyed) {
  std::unique_ptr<Open> open;
  std::optional<Both> stream;
  std::shared_ptr<Operation<std::optional<std::string>>> waits;
  sweep(
      [&] {
        open = std::make_unique<Open>(*this);
        stream.emplace(std::move(open->stream));
        waits = start(stream->next());
      },
      [&] { stream.reset(); },
      [&](bool) {
        run();
        EXPECT_TRUE(waits->over) << "it waits for ever";
        open->worker.read();
        open->worker.answer(open->call);
        open->worker.die();
        open.reset();
        run();
        EXPECT_EQ(in_flight(), 0u);
      });
}

}  // namespace
