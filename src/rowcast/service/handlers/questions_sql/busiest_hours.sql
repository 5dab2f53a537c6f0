-- order: 40
-- title: Busiest hours
-- description: A heat map of the week: one character for every hour from midnight on, darker where more orders come in.
-- parameter: year integer = 2025 (2021..2025) The year to count.
-- parameter: channel text = all (all|app|web|telephone) How the orders came in.
-- example: busiest_hours year=2025 channel=app

with hourly as (
    select extract(isodow from ordered_at)::integer as weekday,
           extract(hour from ordered_at)::integer as hour,
           count(*) as orders
    from orders
    where ordered_at >= make_date($1::integer, 1, 1)
      and ordered_at < make_date($1::integer + 1, 1, 1)
      and ($2::text = 'all' or channel = $2::text)
    group by 1, 2
), grid as (
    select weekday, hour, coalesce(orders, 0) as orders, max(orders) over () as most
    from generate_series(1, 7) as weekday
    cross join generate_series(0, 23) as hour
    left join hourly using (weekday, hour)
)
select (array['Monday', 'Tuesday', 'Wednesday', 'Thursday', 'Friday', 'Saturday', 'Sunday'])[weekday] as weekday,
       string_agg(substr(' ░▒▓█', 1 + ceil(4.0 * orders / most)::integer, 1), '' order by hour) as hours_0_to_23,
       sum(orders)::integer as orders,
       (array_agg(hour order by orders desc, hour))[1] as busiest_hour
from grid
group by grid.weekday
order by grid.weekday;
