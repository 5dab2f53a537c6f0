-- order: 100
-- title: A question that fails
-- description: Divides the revenue of every product and month by the units that were kept, and forgets the months in which everything came back. It fails on purpose while it runs, to show how that looks.
-- when 22012: In at least one month every unit of a product was returned, so the price per kept unit divides by zero. This question fails on purpose: with nullif(kept, 0) in the query it would not.
-- example: broken

with monthly as (
    select product_id, date_trunc('month', ordered_at)::date as month,
           sum(quantity * unit_price) as revenue,
           sum(quantity - returned_quantity) as kept
    from orders
    join order_line using (order_id)
    group by 1, 2
)
select product.name as product, monthly.month, round(monthly.revenue / monthly.kept, 2) as revenue_per_kept_unit
from monthly
join product using (product_id)
order by revenue_per_kept_unit desc;
