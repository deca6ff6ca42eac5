#include "support/catch.hpp"

#include <peft/optim/schedule.hpp>

#include <limits>

using peft::Schedule;
using peft::ScheduleKind;

TEST_CASE("schedule: the warm-up rises in a straight line and reaches the peak at its last step") {
    for (const ScheduleKind kind : {ScheduleKind::constant, ScheduleKind::linear, ScheduleKind::cosine}) {
        const Schedule schedule{.kind = kind, .peak = 0.4, .warmup = 4, .total = 20};
        CHECK(schedule.at(0) == Approx(0.1));
        CHECK(schedule.at(1) == Approx(0.2));
        CHECK(schedule.at(2) == Approx(0.3));
        CHECK(schedule.at(3) == 0.4);
        CHECK(schedule.at(4) == 0.4);   // the fall begins at the peak
    }
}

TEST_CASE("schedule: constant stays, linear and cosine fall to the floor and stay there") {
    const Schedule constant{.peak = 2, .warmup = 1};
    CHECK(constant.at(0) == 2);
    CHECK(constant.at(1000000) == 2);

    const Schedule linear{.kind = ScheduleKind::linear, .peak = 1, .warmup = 2, .total = 12, .floor = 0.5};
    CHECK(linear.at(7) == Approx(0.75));
    CHECK(linear.at(11) == Approx(0.55));
    CHECK(linear.at(12) == 0.5);
    CHECK(linear.at(99) == 0.5);

    const Schedule cosine{.kind = ScheduleKind::cosine, .peak = 1, .warmup = 0, .total = 8, .floor = 0.2};
    CHECK(cosine.at(0) == 1);
    CHECK(cosine.at(4) == Approx(0.6));                                      // half way
    CHECK(cosine.at(2) == Approx(0.2 + 0.8 * 0.85355339059327379));          // (1 + cos(pi / 4)) / 2
    CHECK(cosine.at(6) == Approx(0.2 + 0.8 * 0.14644660940672621));
    CHECK(cosine.at(8) == 0.2);
}

TEST_CASE("schedule: nothing but the warm-up, and a peak of zero, are legal") {
    const Schedule short_one{.kind = ScheduleKind::linear, .peak = 1, .warmup = 3, .total = 3, .floor = 0};
    CHECK(short_one.at(2) == 1);
    CHECK(short_one.at(3) == 0);
    CHECK(Schedule{.peak = 0}.at(5) == 0);
}

TEST_CASE("schedule: options outside their range are refused by name") {
    const double nan = std::numeric_limits<double>::quiet_NaN();
    const auto refuses = [](const Schedule& schedule, const char* name) { CHECK_THROWS_WITH(schedule.at(0), Catch::Matchers::ContainsSubstring(name)); };
    refuses({.peak = -1}, "schedule: peak");
    refuses({.peak = nan}, "schedule: peak");
    refuses({.kind = ScheduleKind::linear, .peak = 1, .total = 5, .floor = 2}, "schedule: floor");
    refuses({.kind = ScheduleKind::cosine, .peak = 1, .total = 5, .floor = nan}, "schedule: floor");
    refuses({.kind = ScheduleKind::cosine, .peak = 1, .warmup = 6, .total = 5}, "schedule: total");
}
