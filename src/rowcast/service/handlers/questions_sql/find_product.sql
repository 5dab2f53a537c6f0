-- order: 70
-- title: Find a product
-- description: Products whose name contains a text, with what was sold, what came back, and the months they sell best in.
-- parameter: name text (2..40) A part of the name, such as "tea" or "alder mug".
-- example: find_product name="bread knife"

with found as (
    select product_id, name, category, price
    from product
    where strpos(lower(name), lower($1::text)) > 0
), sold as (
    select product_id, extract(month from ordered_at)::integer as month,
           sum(quantity) as units, sum(returned_quantity) as returned
    from found
    join order_line using (product_id)
    join orders using (order_id)
    group by 1, 2
)
select found.name as product, found.category, found.price,
       sum(sold.units)::integer as units,
       round(100.0 * sum(sold.returned) / sum(sold.units), 1) as returned_percent,
       (array_agg(to_char(make_date(2025, sold.month, 1), 'FMMonth') order by sold.units desc, sold.month))[1:3] as best_months
from found
join sold using (product_id)
group by found.product_id, found.name, found.category, found.price
order by units desc, product;
