// The parts of a stream: credit on both sides, the queue of items, and the frames that a worker has put aside.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <gtest/gtest.h>
#include <initializer_list>
#include <malloc.h>
#include <new>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <sys/socket.h>
#include <utility>
#include <vector>

#include <drover/os/credentials.hpp>
#include <drover/wire/channel.hpp>
#include <drover/wire/detail/item_queue.hpp>
#include <drover/wire/detail/stream_credit.hpp>
#include <drover/worker/detail/incoming_frames.hpp>

#include "support/failing_step.hpp"

namespace {

using namespace drover::detail;
using support::failed;
using support::spared;

constexpr std::uint64_t window = stream_window;

// ---- credit ---------------------------------------------------------------------------------------------------------

TEST(SendCredit, SendsWhileItHasAny) {
  SendCredit none(0);
  EXPECT_FALSE(none.may_send());
  EXPECT_TRUE(none.grant(1));
  EXPECT_TRUE(none.may_send());
  none.sent(1);
  EXPECT_FALSE(none.may_send());

  SendCredit large(1);
  large.sent(1'000'000'000'000);  // an item of any size may go with the last byte
  EXPECT_FALSE(large.may_send());
  EXPECT_TRUE(large.grant(1'000'000'000'000 - 1));
  EXPECT_FALSE(large.may_send());
  EXPECT_TRUE(large.grant(1));
  EXPECT_TRUE(large.may_send());
}

TEST(SendCredit, RefusesGrantsThatNoHonestReceiverMakes) {
  struct Case {
    std::uint64_t granted, sent, grant;
    bool accepted;
  };
  constexpr std::uint64_t most = ~std::uint64_t{0};
  for (const Case& c : std::initializer_list<Case>{{0, 0, 0, false},
                                                   {0, 0, 1, true},
                                                   {0, 0, window, true},
                                                   {0, 0, window + 1, false},
                                                   {0, 0, most, false},
                                                   {window, 0, 1, false},
                                                   {window, 0, most, false},
                                                   {window, 24, 24, true},
                                                   {window, 24, 25, false},
                                                   {window, window + 1000, window + 1000, true},
                                                   {window, window + 1000, window + 1001, false},
                                                   {window, window + 1000, most, false},
                                                   {window, window + 1000, most - window, false}}) {
    SendCredit credit(c.granted);
    credit.sent(c.sent);
    EXPECT_EQ(credit.grant(c.grant), c.accepted) << c.granted << ' ' << c.sent << ' ' << c.grant;
    EXPECT_EQ(credit.may_send(), c.granted + (c.accepted ? c.grant : 0) > c.sent) << "a refused grant changes nothing";
  }
}

// Many small grants add up to no more than one large one.
TEST(SendCredit, CannotBeFloodedWithGrants) {
  SendCredit credit(0);
  std::uint64_t granted = 0;
  while (credit.grant(1)) ++granted;
  EXPECT_EQ(granted, window);
}

TEST(ReceiveCredit, AdmitsNoMoreThanWasGranted) {
  ReceiveCredit none(0);
  EXPECT_FALSE(none.admit(24));
  ReceiveCredit credit(window);
  EXPECT_TRUE(credit.admit(window - 1));
  EXPECT_TRUE(credit.admit(~std::uint32_t{0})) << "the last item may be of any size";
  EXPECT_FALSE(credit.admit(0)) << "not even an empty one";
  EXPECT_FALSE(credit.admit(1));
}

TEST(ReceiveCredit, GrantsAgainWhatWasTakenOnceThatIsWorthAMessage) {
  ReceiveCredit credit(window);
  EXPECT_TRUE(credit.admit(window));
  EXPECT_EQ(credit.taken(0), 0u);
  EXPECT_EQ(credit.taken(window / 2 - 1), 0u);
  EXPECT_EQ(credit.taken(1), window / 2);
  EXPECT_TRUE(credit.admit(1));
  EXPECT_EQ(credit.taken(0), 0u);
  EXPECT_EQ(credit.taken(window / 2), window / 2);
}

// Both sides against each other, with messages that take their time. Whatever the order: the receiver never holds more
// than the window and one item, each grant is accepted, and they never wait for each other.
TEST(StreamCredit, NeverDeadlocksAndNeverExceedsTheWindow) {
  std::mt19937 random(7);
  for (int round = 0; round < 300; ++round) {
    SendCredit sender(round % 2 == 0 ? window : 0);
    ReceiveCredit receiver(window);
    std::deque<std::uint64_t> items, held;  // under way; not taken yet
    std::deque<std::uint64_t> grants;       // under way
    if (round % 2 != 0) grants.push_back(window);
    const std::size_t largest = round % 3 == 0 ? 100 : round % 3 == 1 ? 5'000 : 600'000;
    std::uint64_t outstanding = 0;  // sent, and not taken
    for (int sent = 0; sent < 200;) {
      const bool can_send = sender.may_send(), can_receive = !items.empty(), can_take = !held.empty(),
                 can_grant = !grants.empty();
      ASSERT_TRUE(can_send || can_receive || can_take || can_grant) << "a dead-lock";
      switch (random() % 4) {
        case 0:
          if (!can_send) break;
          ASSERT_LT(outstanding, window);
          items.push_back(cost_of_item(random() % (largest + 1)));
          sender.sent(items.back());
          outstanding += items.back();
          ++sent;
          break;
        case 1:
          if (!can_receive) break;
          ASSERT_TRUE(receiver.admit(items.front())) << "an honest sender is believed";
          held.push_back(items.front());
          items.pop_front();
          break;
        case 2:
          if (!can_take) break;
          outstanding -= held.front();
          if (const std::uint64_t bytes = receiver.taken(held.front())) grants.push_back(bytes);
          held.pop_front();
          break;
        default:
          if (!can_grant) break;
          ASSERT_TRUE(sender.grant(grants.front())) << "an honest receiver is believed";
          grants.pop_front();
      }
    }
  }
}

// ---- items ----------------------------------------------------------------------------------------------------------

std::vector<std::byte> bytes_of(std::size_t size, unsigned seed) {
  std::vector<std::byte> bytes(size, static_cast<std::byte>(seed));
  for (std::size_t i = 0; i < size; i += 97) bytes[i] = static_cast<std::byte>(seed + i);
  return bytes;
}
ByteBuffer buffer_of(std::span<const std::byte> bytes) {
  ByteBuffer buffer;
  buffer.append(bytes);
  return buffer;
}
bool equal(std::span<const std::byte> a, std::span<const std::byte> b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size()) == 0);
}

TEST(ItemQueue, IsAQueue) {
  std::mt19937 random(11);
  for (int round = 0; round < 12; ++round) {
    ItemQueue queue, other;
    std::deque<std::vector<std::byte>> model;
    const std::size_t largest = std::array<std::size_t, 4>{0, 40, 5'000, 300 * 1024}[static_cast<unsigned>(round) % 4];
    for (int step = 0; step < 1500; ++step) {
      ASSERT_EQ(queue.empty(), model.empty());
      const unsigned what = static_cast<unsigned>(random() % 100);
      // It grows for a while, and shrinks for a while.
      if (what < (step / 300 % 2 == 0 ? 55u : 35u) && model.size() < 200) {
        model.push_back(bytes_of(random() % (largest + 1), static_cast<unsigned>(step)));
        if (model.back().size() >= worth_moving && random() % 4 != 0)
          queue.push(buffer_of(model.back()));
        else
          queue.push(model.back());
      } else if (what == 98) {  // as between the two sides of a CallStream
        other.swap(queue);
        ASSERT_TRUE(queue.empty());
        queue.swap(other);
      } else if (what == 99 && random() % 20 == 0) {
        queue.clear();
        model.clear();
      } else if (!model.empty()) {
        ASSERT_TRUE(equal(queue.front(), model.front())) << round << ' ' << step;
        queue.pop();
        model.pop_front();
      }
    }
  }
}

/// Small items flow, so many of them in the queue.
void flow(std::size_t in_queue, std::size_t size) {
  ItemQueue queue;
  const std::vector<std::byte> item = bytes_of(size, 1);
  const auto turn = [&](std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) {
      queue.push(item);
      queue.pop();
    }
  };
  for (std::size_t i = 0; i < in_queue; ++i) queue.push(item);
  turn(4'000'000 / (size + 400));  // it takes what it needs
  const auto before = ::mallinfo2();
  turn(20'000'000 / (size + 400));
  const auto after = ::mallinfo2();
  EXPECT_LE(after.uordblks, before.uordblks + 256 * 1024) << in_queue << ' ' << size;
}

TEST(ItemQueue, DoesNotGrowWhileItemsFlow) {
  for (const std::size_t in_queue : {0u, 1u, 2u, 100u})
    for (const std::size_t size : {0u, 10u, 1000u, 60'000u}) flow(in_queue, size);
}

// A push that fails leaves it as it was.
TEST(ItemQueue, IsUnchangedWithoutMemory) {
  for (const std::size_t size : {std::size_t{0}, std::size_t{40}, std::size_t{30'000}, std::size_t{300 * 1024}}) {
    ItemQueue queue;
    std::deque<std::vector<std::byte>> model;
    int failures = 0;
    for (unsigned i = 0; i < 200; ++i) {
      std::vector<std::byte> item = bytes_of(size, i);
      model.push_back(std::move(item));
      for (int first = 0;; ++first) {
        ByteBuffer moved;
        if (size >= worth_moving) moved = buffer_of(model.back());
        spared = first;
        failed = false;
        try {
          if (size >= worth_moving)
            queue.push(std::move(moved));
          else
            queue.push(model.back());
        } catch (const std::bad_alloc&) {
        }
        spared = -1;
        if (!failed) break;
        ++failures;
        ASSERT_LT(first, 10);
        ASSERT_EQ(queue.empty(), model.size() == 1);
      }
    }
    EXPECT_GT(failures, 0) << size;
    for (; !model.empty(); model.pop_front(), queue.pop()) ASSERT_TRUE(equal(queue.front(), model.front())) << size;
    EXPECT_TRUE(queue.empty());
  }
}

// ---- frames put aside -----------------------------------------------------------------------------------------------

class Incoming : public ::testing::Test {
 protected:
  Incoming() : Incoming(socket_pair()) {}

  void send(FrameType type, std::uint64_t id, std::span<const std::byte> body = {}) {
    FrameHeader header;
    header.type = type;
    header.id = id;
    theirs_.queue(header, body);
    do {
      ASSERT_FALSE(theirs_.flush());
      receive();
    } while (theirs_.wants_write());
  }
  void receive() {
    while (data_.receive() == Channel::Received::some) {
    }
  }
  /// The id of the next frame, and its body.
  std::optional<std::pair<std::uint64_t, std::vector<std::byte>>> take() {
    if (frames_.next() == nullptr) return std::nullopt;
    const Frame frame = frames_.take();
    std::pair<std::uint64_t, std::vector<std::byte>> taken(frame.header.id, {frame.body.begin(), frame.body.end()});
    return taken;
  }
  /// The next frame of the channel.
  void put_aside_next() {
    for (int i = 0; i < 10; ++i, receive())
      if (const auto frame = data_.next()) return frames_.put_aside(*frame);
    ADD_FAILURE() << "no frame";
  }
  std::uint64_t take_id() {
    const auto taken = take();
    return taken ? taken->first : 0;
  }

  Channel data_, theirs_;
  IncomingFrames frames_{data_};

 private:
  explicit Incoming(std::pair<drover::UniqueFd, drover::UniqueFd> sockets)
      : data_(std::move(sockets.first), 1u << 20), theirs_(std::move(sockets.second), 1u << 20) {}
};

TEST_F(Incoming, FramesComeInOrder) {
  EXPECT_EQ(frames_.next(), nullptr);
  EXPECT_EQ(frames_.found(), nullptr);
  send(FrameType::call, 1, bytes_of(10, 1));
  send(FrameType::call, 2, bytes_of(20, 2));
  ASSERT_NE(frames_.next(), nullptr);
  EXPECT_EQ(frames_.found()->header.id, 1u) << "it stays";
  EXPECT_EQ(frames_.next()->header.id, 1u);
  const auto one = take();
  ASSERT_TRUE(one);
  EXPECT_EQ(one->second, bytes_of(10, 1));
  EXPECT_EQ(frames_.found(), nullptr);
  ASSERT_NE(frames_.next(), nullptr);
  frames_.drop_next();
  EXPECT_FALSE(take());
}

TEST_F(Incoming, FramesPutAsideComeFirst) {
  for (std::uint64_t id = 1; id <= 4; ++id) send(FrameType::call, id, bytes_of(10 * id, static_cast<unsigned>(id)));
  ASSERT_NE(frames_.next(), nullptr);
  frames_.put_aside_next();
  EXPECT_EQ(frames_.found(), nullptr);
  frames_.put_aside_next();  // there is none
  put_aside_next();
  send(FrameType::call, 5);  // overwrites what the reader had
  EXPECT_TRUE(frames_.has_aside());
  for (std::uint64_t id = 1; id <= 2; ++id) {
    const auto taken = take();
    ASSERT_TRUE(taken);
    EXPECT_EQ(taken->first, id);
    EXPECT_EQ(taken->second, bytes_of(10 * id, static_cast<unsigned>(id)));
  }
  EXPECT_FALSE(frames_.has_aside());
  for (std::uint64_t id = 3; id <= 5; ++id) EXPECT_EQ(take_id(), id);
}

// One that came from those put aside goes back to its place.
TEST_F(Incoming, FrameCanBePutAsideAgain) {
  for (std::uint64_t id = 1; id <= 3; ++id)
    send(FrameType::call, id, bytes_of(100'000 * id, static_cast<unsigned>(id)));
  for (int i = 0; i < 3; ++i) put_aside_next();
  for (int i = 0; i < 3; ++i) {
    ASSERT_NE(frames_.next(), nullptr);
    EXPECT_EQ(frames_.found()->header.id, 1u);
    frames_.put_aside_next();
  }
  for (std::uint64_t id = 1; id <= 3; ++id) {
    const auto taken = take();
    ASSERT_TRUE(taken);
    EXPECT_EQ(taken->first, id);
    EXPECT_EQ(taken->second, bytes_of(100'000 * id, static_cast<unsigned>(id)));
  }
}

TEST_F(Incoming, BodyCanBeTakenWhereverItsFrameWas) {
  for (const std::size_t size : {std::size_t{10}, std::size_t{100'000}}) {
    send(FrameType::call, 1, bytes_of(size, 1));
    send(FrameType::call, 2, bytes_of(size, 2));
    ASSERT_NE(frames_.next(), nullptr);
    frames_.put_aside_next();
    for (unsigned id = 1; id <= 2; ++id) {  // the first one from those put aside, the other one from the channel
      ASSERT_NE(frames_.next(), nullptr);
      (void)frames_.take();
      const ByteBuffer body = frames_.take_body();
      EXPECT_TRUE(equal(body.view(), bytes_of(size, id)));
    }
  }
}

}  // namespace
