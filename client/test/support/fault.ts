/** Marks a test with a number of the list of faults that are to be survived. */
export const fault = (number: number): string => `[fault ${number}] `;
