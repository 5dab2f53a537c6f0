-- order: 30
-- title: Do customers come back?
-- description: Customers grouped by the month of their first order, and the percentage of each group that ordered again so many months later.
-- parameter: year integer = 2024 (2021..2025) The year of the first orders.
-- example: cohort_retention year=2024

with active as (
    select distinct customer_id, date_trunc('month', ordered_at)::date as month
    from orders
), cohort as (
    select customer_id, min(month) as first_month
    from active
    group by customer_id
    having min(month) >= make_date($1::integer, 1, 1)
       and min(month) < make_date($1::integer + 1, 1, 1)
), visit as (
    select first_month, customer_id,
           12 * (extract(year from month) - extract(year from first_month))::integer
           + (extract(month from month) - extract(month from first_month))::integer as age
    from cohort
    join active using (customer_id)
), counted as (
    select first_month,
           count(*) filter (where age = 0) as customers,
           count(*) filter (where age = 1) as m1,
           count(*) filter (where age = 2) as m2,
           count(*) filter (where age = 3) as m3,
           count(*) filter (where age = 6) as m6,
           count(*) filter (where age = 9) as m9,
           count(*) filter (where age = 12) as m12
    from visit
    group by first_month
)
-- A month that lies beyond the end of the data is unknown, not zero.
select first_month, customers,
       case when first_month <= date '2025-11-01' then round(100.0 * m1 / customers, 1) end as after_1_month,
       case when first_month <= date '2025-10-01' then round(100.0 * m2 / customers, 1) end as after_2_months,
       case when first_month <= date '2025-09-01' then round(100.0 * m3 / customers, 1) end as after_3_months,
       case when first_month <= date '2025-06-01' then round(100.0 * m6 / customers, 1) end as after_6_months,
       case when first_month <= date '2025-03-01' then round(100.0 * m9 / customers, 1) end as after_9_months,
       case when first_month <= date '2024-12-01' then round(100.0 * m12 / customers, 1) end as after_12_months
from counted
order by first_month;
