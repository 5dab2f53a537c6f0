-- order: 80
-- title: Orders since a day
-- description: Every order from a day on, oldest first. A year has more orders than an answer may have rows, so it shows how a long answer is cut.
-- parameter: day date = 2025-12-01 (2021-01-01..2025-12-31) The first day to list.
-- example: orders_since day=2025-12-24

select orders.order_id, orders.ordered_at, customer.name as customer, region.name as region, orders.channel,
       basket.products, basket.value, delivery.carrier, delivery.delivered_on
from orders
join customer using (customer_id)
join region using (region_id)
join delivery using (order_id)
cross join lateral (
    select count(*) as products, sum(quantity * unit_price) as value
    from order_line
    where order_line.order_id = orders.order_id
) as basket
where orders.ordered_at >= $1::date
order by orders.order_id;
