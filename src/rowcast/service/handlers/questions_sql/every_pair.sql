-- order: 90
-- title: Every pair of products
-- description: Compares all products with each other: which pairs are bought by the same customers far more often than chance would have it. Millions of pairs, some seconds of real work.
-- parameter: share integer = 100 (1..100) The percentage of customers to look at; the time grows with it.
-- parameter: count integer = 25 (1..1000) How many pairs to list.
-- example: every_pair share=100

with bought as (
    select customer_id, product_id, min(ordered_at)::date as first_bought_on
    from orders
    join order_line using (order_id)
    where customer_id % 100 < $1::integer
    group by customer_id, product_id
), buyers as (
    select product_id, count(*) as customers
    from bought
    group by product_id
), pair as (
    select a.product_id as one, b.product_id as other,
           count(*) as customers,
           percentile_disc(0.5) within group (order by abs(a.first_bought_on - b.first_bought_on)) as days_apart
    from bought as a
    join bought as b using (customer_id)
    where a.product_id < b.product_id
    group by a.product_id, b.product_id
), measured as (
    select pair.*,
           pair.customers * (select count(distinct customer_id) from bought)
           / (buyers_of_one.customers * buyers_of_other.customers)::numeric as lift,
           count(*) over () as pairs_compared
    from pair
    join buyers as buyers_of_one on buyers_of_one.product_id = pair.one
    join buyers as buyers_of_other on buyers_of_other.product_id = pair.other
)
-- Pairs that only a handful of customers share would top the list by luck.
select one.name as product, other.name as bought_with, measured.customers,
       round(measured.lift, 2) as times_as_often_as_chance,
       measured.days_apart as median_days_apart,
       measured.pairs_compared
from measured
join product as one on one.product_id = measured.one
join product as other on other.product_id = measured.other
where measured.customers >= greatest(2, $1::integer / 3)
order by measured.lift desc, one.name, other.name
limit $2::integer;
