-- order: 60
-- title: How much do people spend at once?
-- description: A histogram of the value of orders, drawn with characters.
-- parameter: year integer = 2025 (2021..2025) The year to count.
-- parameter: step integer = 25 (5..500) The width of a bar, in the shop's currency.
-- example: order_sizes year=2025 step=25

with basket as (
    select order_id, sum(quantity * unit_price) as value
    from orders
    join order_line using (order_id)
    where ordered_at >= make_date($1::integer, 1, 1)
      and ordered_at < make_date($1::integer + 1, 1, 1)
    group by order_id
), bucket as (
    select (least(floor(value / $2::integer), 19) * $2::integer)::integer as spent_from, count(*) as orders
    from basket
    group by 1
)
-- Whatever lies beyond the nineteenth bar is counted in the last one, which has no upper end.
select spent_from,
       case when spent_from < 19 * $2::integer then spent_from + $2::integer end as spent_below,
       orders,
       round(100.0 * orders / sum(orders) over (), 1) as percent,
       repeat('█', ceil(40.0 * orders / max(orders) over ())::integer) as bar
from bucket
order by spent_from;
