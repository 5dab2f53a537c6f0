-- order: 10
-- title: Sales by month
-- description: Orders, units and revenue of every month of a year, with the change against the same month a year before.
-- parameter: year integer = 2025 (2021..2025) The year to show.
-- example: sales_by_month year=2025

with monthly as (
    select date_trunc('month', ordered_at)::date as month,
           count(distinct order_id) as orders,
           sum(quantity - returned_quantity) as units,
           sum((quantity - returned_quantity) * unit_price) as revenue
    from orders
    join order_line using (order_id)
    where ordered_at >= make_date($1::integer - 1, 1, 1)
      and ordered_at < make_date($1::integer + 1, 1, 1)
    group by 1
)
select this.month, this.orders, this.units, this.revenue,
       round(100 * (this.revenue / nullif(before.revenue, 0) - 1), 1) as change_percent
from monthly as this
left join monthly as before on before.month = (this.month - interval '1 year')::date
where this.month >= make_date($1::integer, 1, 1)
order by this.month;
