// Which worker gets a call, and which call a worker gets: every kind of call times every state of the workers.
#include <gtest/gtest.h>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include <drover/os/credentials.hpp>
#include <drover/pool/detail/call/call_scheduler.hpp>
#include <drover/pool/detail/call/dispatcher.hpp>
#include <drover/pool/detail/worker/data_link.hpp>

namespace {

using drover::detail::Call;
using drover::detail::CallEvent;
using drover::detail::CallQueue;
using drover::detail::CallScheduler;
using drover::detail::DataLink;
using drover::detail::KeyedCalls;

/// A link whose worker never answers: its calls end when the test says so.
class Link final : drover::detail::LinkOwner, DataLink::Listener {
 public:
  explicit Link(std::size_t capacity = 1) : data(*this, *this, capacity) {
    auto [ours, theirs] = drover::detail::socket_pair();
    data.open(std::move(ours), 1 << 20);
    data.take_calls(true);
  }
  ~Link() { data.close(false); }

  void begin(CallScheduler& scheduler, const std::shared_ptr<Call>& call) {
    scheduler.reserve(data);
    data.slots().reserve();
    call->slot = data.slots().next_slot();
    call->id = data.slots().next_id();
    call->link = &data;
    data.slots().add(call);
    scheduler.changed(data);
  }
  void end(CallScheduler& scheduler, const Call& call) {
    data.slots().release(call);
    scheduler.changed(data);
  }

 private:
  std::unique_lock<std::mutex> lock() const override { return {}; }
  std::unique_lock<std::mutex> lock_context() const override { return {}; }
  std::shared_ptr<void> keep_alive() override { return nullptr; }
  bool foreign() const noexcept override { return false; }
  void socket_failed(const char* what, std::error_code error) override { ADD_FAILURE() << what << error; }
  void peer_failed(std::exception_ptr) override { ADD_FAILURE(); }
  void run_completions(std::unique_lock<std::mutex>) override {}
  std::string describe() const override { return "a link"; }
  std::size_t slot() const noexcept override { return 0; }
  void send_cancel(std::uint64_t, drover::CancelReason) override {}
  void send_recall(std::uint64_t) override {}
  void kill_worker(const Call&) override {}
  void read_results(int) override {}
  void result(const std::shared_ptr<Call>&, drover::detail::Outcome) override {}
  void begun(Call&) override {}
  void data_closed() override {}
  void data_broken() override {}

 public:
  DataLink data;
};

// ---- the table ------------------------------------------------------------------------------------------------------

enum class Kind { plain, new_key, key_at_home, broadcast, poisoned };
enum class Home { free, busy, closed, gone };  // the first worker
enum class Other { free, busy };               // the second one
enum class To { home, other, waits, waits_for_home, refused };

const char* name(To to) {
  constexpr const char* names[] = {"home", "other", "waits", "waits for home", "refused"};
  return names[static_cast<int>(to)];
}

/// The contract, said once more: where a call goes. `first`: no call waits for any worker.
To expected_route(Kind kind, Home home, Other other, bool first) {
  const bool home_lives = home == Home::free || home == Home::busy;
  const auto to_home = home == Home::free ? To::home : To::waits_for_home;
  const auto to_free_one = home == Home::free ? To::home : other == Other::free ? To::other : To::waits;
  switch (kind) {
    case Kind::poisoned: return To::refused;
    case Kind::broadcast: return home_lives ? to_home : To::refused;
    case Kind::key_at_home:
      if (home_lives) return to_home;
      [[fallthrough]];
    case Kind::new_key:
      if (to_free_one != To::waits) return to_free_one;
      [[fallthrough]];
    case Kind::plain: return first ? to_free_one : To::waits;
  }
  return To::refused;
}

class Scheduler {
 public:
  Scheduler(Home home, Other other) {
    // Each has had a call, so that the one used last is chosen: the home.
    for (Link* link : {other_.get(), home_.get()}) {
      scheduler.add(link->data);
      const auto call = std::make_shared<Call>();
      link->begin(scheduler, call);
      link->end(scheduler, *call);
    }
    home_number_ = home_->data.number;
    if (home == Home::busy) home_->begin(scheduler, std::make_shared<Call>());
    if (other == Other::busy) other_->begin(scheduler, std::make_shared<Call>());
    home_state_ = home;
  }
  /// The home closes or goes, if it is to.
  void settle() {
    if (home_state_ == Home::closed) scheduler.close(home_->data);
    if (home_state_ == Home::gone) scheduler.remove(home_->data);
  }
  ~Scheduler() {
    while (scheduler.take_any()) {
    }
    scheduler.remove(home_->data);
    scheduler.remove(other_->data);
  }

  std::shared_ptr<Call> make(Kind kind) {
    auto call = std::make_shared<Call>();
    if (kind == Kind::broadcast) call->only = home_number_;
    if (kind == Kind::new_key) keyed.begin(*call, "new");
    if (kind == Kind::key_at_home) {
      keyed.begin(*call, "known");
      call->key->link = home_number_;
    }
    if (kind == Kind::poisoned) {
      keyed.begin(*call, "poison");
      call->link = &other_->data;
      keyed.died(*call);
      call->link = nullptr;
    }
    return call;
  }
  To place(const DataLink* link) const { return link == &home_->data ? To::home : To::other; }

  KeyedCalls keyed{{.after = 1, .span = std::chrono::hours(1)}};
  CallScheduler scheduler{keyed};
  std::unique_ptr<Link> home_ = std::make_unique<Link>(), other_ = std::make_unique<Link>();

 private:
  std::uint64_t home_number_ = 0;
  Home home_state_{};
};

template <class F>
void for_all(F f) {
  for (const Kind kind : {Kind::plain, Kind::new_key, Kind::key_at_home, Kind::broadcast, Kind::poisoned})
    for (const Home home : {Home::free, Home::busy, Home::closed, Home::gone})
      for (const Other other : {Other::free, Other::busy})
        for (const bool first : {true, false}) f(kind, home, other, first);
}

TEST(CallScheduler, NewCallGoesWhereItsKindMay) {
  for_all([](Kind kind, Home home, Other other, bool first) {
    Scheduler with(home, other);
    with.settle();
    if (!first) with.scheduler.push(std::make_shared<Call>(), nullptr);
    const auto call = with.make(kind);
    const CallScheduler::Route route = with.scheduler.route(*call);
    To to = To::waits;
    if (route.refusal)
      to = To::refused;
    else if (route.link != nullptr)
      to = with.place(route.link);
    else if (route.home != nullptr)
      to = with.place(route.home) == To::home ? To::waits_for_home : To::waits;
    // Two free workers are equally good for a new key, which is given out in turn.
    const bool in_turn = kind == Kind::new_key && home == Home::free && other == Other::free;
    const To expected = expected_route(kind, home, other, first);
    if (!in_turn || to == To::waits || to == To::refused) {
      EXPECT_STREQ(name(to), name(expected))
          << "kind " << static_cast<int>(kind) << ", home " << static_cast<int>(home) << ", other "
          << static_cast<int>(other) << (first ? ", first" : ", behind one that waits");
    }
    if (kind == Kind::plain) {
      EXPECT_EQ(route.home, nullptr);
    }
  });
}

/// A call that has waited for any worker is looked at anew when its turn comes. `Home` is what has become of its home.
TEST(CallScheduler, CallInTurnGoesWhereItsKindMay) {
  for_all([](Kind kind, Home home, Other other, bool has_company) {
    Scheduler with(home, other);
    with.settle();
    const auto call = with.make(kind);
    with.scheduler.push(call, nullptr);
    if (has_company) with.scheduler.push(std::make_shared<Call>(), nullptr);
    const bool any_free = home == Home::free || other == Other::free;
    const bool home_lives = home == Home::free || home == Home::busy;
    const CallScheduler::Turn turn = with.scheduler.next();
    const std::string what = "kind " + std::to_string(static_cast<int>(kind)) + ", home " +
                             std::to_string(static_cast<int>(home)) + ", other " +
                             std::to_string(static_cast<int>(other));
    if (!any_free) {
      EXPECT_FALSE(turn.call) << what;
      EXPECT_EQ(with.scheduler.waiting(), has_company ? 2u : 1u) << what;
      return;
    }
    const bool is_bound = (kind == Kind::key_at_home || kind == Kind::broadcast) && home_lives;
    if (is_bound && home == Home::busy) {  // it waits for its home from now on; the next one has its turn
      EXPECT_EQ(with.scheduler.pinned(), 1u) << what;
      EXPECT_EQ(call->pinned_at, &with.home_->data) << what;
      EXPECT_EQ(turn.call != nullptr, has_company) << what;
      if (turn.call) {
        EXPECT_EQ(turn.link, &with.other_->data) << what;
      }
      return;
    }
    ASSERT_EQ(turn.call, call) << what;
    EXPECT_EQ(with.scheduler.waiting(), has_company ? 1u : 0u) << what;
    const bool fails = kind == Kind::poisoned || (kind == Kind::broadcast && !home_lives);
    EXPECT_EQ(turn.failure != nullptr, fails) << what;
    if (!fails) {
      EXPECT_EQ(turn.link, home == Home::free ? &with.home_->data : &with.other_->data) << what;
    }
  });
}

TEST(CallScheduler, WorkerThatGoesReleasesWhatOthersMayRun) {
  for (const bool closes : {true, false}) {
    Scheduler with(Home::busy, Other::busy);
    const auto keyed = with.make(Kind::key_at_home), broadcast = with.make(Kind::broadcast);
    for (const auto& call : {keyed, broadcast}) with.scheduler.push(call, &with.home_->data);
    ASSERT_EQ(with.scheduler.pinned(), 2u);
    if (closes) {
      EXPECT_TRUE(with.scheduler.close(with.home_->data));
      EXPECT_EQ(with.scheduler.pinned(), 1u);
      EXPECT_EQ(broadcast->pinned_at, &with.home_->data);
    } else {
      CallQueue rest = with.scheduler.remove(with.home_->data);
      EXPECT_EQ(rest.pop(), broadcast);
      EXPECT_TRUE(rest.empty());
      EXPECT_EQ(with.scheduler.pinned(), 0u);
    }
    EXPECT_EQ(with.scheduler.waiting(), 1u);
    EXPECT_EQ(with.scheduler.take_any(), keyed);
  }
}

TEST(CallScheduler, TakesCallsOfTheFirstWorkerThatHasAny) {
  Scheduler with(Home::busy, Other::busy);  // the other one was added first
  const auto push = [&](Link& link) {
    auto call = std::make_shared<Call>();
    with.scheduler.push(call, &link.data);
    return call;
  };
  const auto second = push(*with.home_), first = push(*with.other_);
  for (const auto& call : {first, second}) EXPECT_EQ(with.scheduler.take_any(), call);
  const auto later = push(*with.home_), last = push(*with.home_), next = push(*with.other_);
  for (const auto& call : {next, later, last, std::shared_ptr<Call>()}) EXPECT_EQ(with.scheduler.take_any(), call);
}

// ---- random sequences -----------------------------------------------------------------------------------------------

/// Calls of all kinds, workers that come, close and go: none is lost or given out twice, none goes where it may not,
/// and none waits for a worker that could take it.
TEST(CallScheduler, RandomSequencesLoseNothing) {
  for (unsigned seed = 0; seed < 60; ++seed) {
    std::mt19937 random(seed);
    KeyedCalls keyed{{}};
    CallScheduler scheduler{keyed};
    std::vector<std::unique_ptr<Link>> links;
    std::map<Call*, Link*> running;
    std::size_t made = 0, ended = 0, failed = 0;
    std::vector<std::shared_ptr<Call>> alive;
    const auto pick = [&](std::size_t count) { return static_cast<std::size_t>(random() % count); };
    const auto link_of = [&](DataLink* data) {
      for (const auto& link : links)
        if (&link->data == data) return link.get();
      return static_cast<Link*>(nullptr);
    };
    const auto begin = [&](const std::shared_ptr<Call>& call, DataLink* data) {
      Link* const link = link_of(data);
      ASSERT_NE(link, nullptr);
      ASSERT_TRUE(data->load().ready);
      ASSERT_LT(data->in_flight(), data->slots().capacity());
      if (call->only != 0) {
        ASSERT_EQ(call->only, data->number);
      }
      if (call->key != nullptr) KeyedCalls::sent(*call, *data);
      ASSERT_TRUE(running.emplace(call.get(), link).second);
      link->begin(scheduler, call);
    };
    const auto end = [&](Call& call, CallEvent event) {
      keyed.ended(call, event);
      for (auto at = alive.begin(); at != alive.end(); ++at)
        if (at->get() == &call) {
          alive.erase(at);
          break;
        }
    };
    const auto take = [&](const CallScheduler::Turn& turn) {
      if (!turn.failure) return begin(turn.call, turn.link);
      ++failed;
      end(*turn.call, CallEvent::cancelled);
    };
    const auto give_out = [&] {
      for (const auto& link : links)
        for (auto turn = scheduler.next_for(link->data); turn.call; turn = scheduler.next_for(link->data)) take(turn);
      for (auto turn = scheduler.next(); turn.call; turn = scheduler.next()) take(turn);
    };
    for (int step = 0; step < 400 && !testing::Test::HasFatalFailure(); ++step) {
      const auto what = pick(10);
      if (what < 5) {
        auto call = std::make_shared<Call>();
        call->order = ++made;
        call->priority = static_cast<std::uint8_t>(pick(4));
        if (what == 1) keyed.begin(*call, std::string(1, static_cast<char>('a' + pick(5))));
        if (what == 2 && !links.empty()) call->only = links[pick(links.size())]->data.number;
        alive.push_back(call);
        const auto route = scheduler.route(*call);
        if (route.refusal) {
          ++failed;
          end(*call, CallEvent::cancelled);
        } else if (route.link != nullptr) {
          begin(call, route.link);
        } else {
          scheduler.push(call, route.home);
        }
      } else if (what < 8 && !running.empty()) {
        auto at = std::next(running.begin(), static_cast<std::ptrdiff_t>(pick(running.size())));
        Call& call = *at->first;
        Link& link = *at->second;
        running.erase(at);
        ++ended;
        link.end(scheduler, call);
        end(call, CallEvent::answered);
      } else if (what == 8 && links.size() < 6) {
        links.push_back(std::make_unique<Link>(1 + pick(2)));
        scheduler.add(links.back()->data);
      } else if (what == 9 && !links.empty() && pick(3) == 0) {
        const auto at = links.begin() + static_cast<std::ptrdiff_t>(pick(links.size()));
        Link& link = **at;
        if (pick(2) == 0) {
          scheduler.close(link.data);
        } else {
          for (auto call = running.begin(); call != running.end();) {
            if (call->second != &link) {
              ++call;
              continue;
            }
            Call& gone = *call->first;
            call = running.erase(call);
            ++ended;
            link.end(scheduler, gone);
            end(gone, CallEvent::answered);
          }
          CallQueue rest = scheduler.remove(link.data);
          while (!rest.empty()) {
            const auto call = rest.pop();
            EXPECT_NE(call->only, 0u);
            ++failed;
            end(*call, CallEvent::cancelled);
          }
          links.erase(at);
        }
      }
      give_out();
      EXPECT_EQ(made, running.size() + ended + failed + scheduler.queued()) << "seed " << seed << ", step " << step;
      EXPECT_EQ(alive.size(), running.size() + scheduler.queued());
      std::size_t to_keep_busy = 0;
      for (const auto& link : links) {
        to_keep_busy += link->data.slots().capacity() + 1;
        const bool takes = link->data.load().ready && link->data.in_flight() < link->data.slots().capacity();
        EXPECT_FALSE(takes && (scheduler.waiting() != 0 || !link->data.pinned.empty())) << "seed " << seed;
      }
      EXPECT_EQ(scheduler.calls_to_keep_busy(), to_keep_busy);
    }
    while (const auto call = scheduler.take_any()) end(*call, CallEvent::cancelled);
    while (!links.empty()) {
      for (const auto& [call, link] : running)
        if (link == links.back().get()) end(*call, CallEvent::answered);
      CallQueue rest = scheduler.remove(links.back()->data);
      EXPECT_TRUE(rest.empty());
      std::erase_if(running, [&](const auto& at) { return at.second == links.back().get(); });
      links.pop_back();
    }
    EXPECT_TRUE(alive.empty());
    if (testing::Test::HasFailure()) return;
  }
}

}  // namespace
