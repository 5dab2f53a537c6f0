-- order: 20
-- title: Top customers
-- description: Who spent most, what share of all revenue that is, and how the shares add up.
-- parameter: year integer = 2025 (2021..2025) The year to count.
-- parameter: count integer = 20 (1..4000) How many customers to list.
-- example: top_customers year=2025 count=20

with spent as (
    select customer_id, count(distinct order_id) as orders,
           sum((quantity - returned_quantity) * unit_price) as revenue
    from orders
    join order_line using (order_id)
    where ordered_at >= make_date($1::integer, 1, 1)
      and ordered_at < make_date($1::integer + 1, 1, 1)
    group by customer_id
), ranked as (
    select *,
           row_number() over by_revenue as rank,
           round(100 * revenue / sum(revenue) over (), 2) as share_percent,
           round(100 * sum(revenue) over by_revenue / sum(revenue) over (), 2) as running_share_percent
    from spent
    window by_revenue as (order by revenue desc, customer_id)
)
select ranked.rank, customer.name as customer, region.name as region, ranked.orders, ranked.revenue,
       ranked.share_percent, ranked.running_share_percent
from ranked
join customer using (customer_id)
join region using (region_id)
where ranked.rank <= $2::integer
order by ranked.rank;
